// A stack of blocks, each some convolutions with a normalisation and a ReLU behind it.

#pragma once

#include <array>
#include <initializer_list>
#include <vector>

#include "convolution.h"
#include "normalization.h"

namespace autogrow {

// A layer of all blocks of a stack. Its arrays have a leading axis of slots, a block's place each.
struct Layer {
  Shape shape;
  const float *kernel = nullptr, *scale = nullptr, *bias = nullptr;
  float *mean = nullptr, *variance = nullptr;  // What it normalises by.
  float* y = nullptr;                          // Output of the convolution.
  float *grad_kernel = nullptr, *grad_scale = nullptr, *grad_bias = nullptr;

  int64_t pixels() const { return shape.images * shape.out_height * shape.out_width; }
  int64_t output_size() const { return pixels() * shape.features; }
  int64_t kernel_size() const {
    return shape.kernel_height * shape.kernel_width * shape.channels * shape.features;
  }
  Normalization normalization(int64_t slot) const {
    const int64_t at = slot * shape.features;
    return {scale + at, bias + at, mean + at, variance + at, shape.features};
  }
  AsIs output(int64_t slot) const { return {y + slot * output_size(), shape.features}; }
};

// The gradient of a layer's convolution, from that of what it is normalised to.
template <bool Relu>
class LayerGradient {
 public:
  // g: the gradient of the normalised y or, with Relu, of what comes out of the ReLU.
  LayerGradient(const Normalization& n, const float* grad_scale, const float* grad_bias,
                int64_t pixels, AsIs g, AsIs y)
      : output_(n),
        of_y_(Coefficients::of_gradient(n, grad_scale, grad_bias, pixels)),
        g_(g),
        y_(y) {}

  NormalizationGradient<Relu> source() const {
    return {g_, y_, output_.scaling(), of_y_.scaling()};
  }

 private:
  Coefficients output_, of_y_;
  AsIs g_, y_;
};

// Blocks that keep the shape of what they are given. Residual: the last layer's ReLU is that of its
// sum with the block's input.
class Stack {
 public:
  using Scratch = std::array<float*, 3>;

  // x: what the first block is given, [images, height, width, channels]. inputs: the same of those
  // behind it where they are residual, [slots - 1, ...].
  Stack(Team& team, std::vector<Layer> layers, bool residual, const float* x, float* inputs)
      : team_(team), layers_(std::move(layers)), residual_(residual), x_(x), inputs_(inputs) {}

  // Trains: runs the blocks of slots 0 to depth - 1 by the statistics of the batch. z: the output
  // of the last one.
  void forward(int64_t depth, float* z) const {
    for (int64_t slot = 0; slot < depth; ++slot) {
      for (size_t l = 0; l < layers_.size(); ++l) {
        const Layer& layer = layers_[l];
        const int64_t at = slot * layer.shape.features;
        with_input(slot, l, [&](auto input) {
          convolve(team_, layer.shape, input, layer.kernel + slot * layer.kernel_size(),
                   layer.y + slot * layer.output_size(),
                   Statistics{layer.mean + at, layer.variance + at});
        });
      }
      // Blocks that are not residual write nothing but y, which the next one normalises.
      if (slot + 1 == depth || residual_) end_block(slot, slot + 1 == depth ? z : input(slot + 1));
    }
  }

  // The gradients of all, from that of z, once `forward` has run into the same arrays. scratch:
  // each as large as the largest output.
  void backward(int64_t depth, const float* g, const Scratch& scratch, float* grad_x) const {
    for (int64_t slot = depth - 1; slot >= 0; --slot) {
      const float* of_sum = nullptr;
      for (size_t l = layers_.size(); l-- > 0;) {
        float* passed = nullptr;
        if (residual_ && l + 1 == layers_.size()) of_sum = passed = unused(scratch, {g});
        const Layer& layer = layers_[l];
        const int64_t at = slot * layer.shape.features;
        const Normalization n = layer.normalization(slot);
        differentiate_normalization<true>(
            team_, n, layer.output(slot).x, g, passed != nullptr ? block_input(slot) : nullptr,
            layer.pixels(), layer.grad_scale + at, layer.grad_bias + at, passed);
        Epilogue epilogue;
        if (l == 0) epilogue.addend = of_sum;
        float* to = slot == 0 && l == 0 ? grad_x : unused(scratch, {g, passed, of_sum});
        const auto differentiate = [&](const auto& gradient) {
          with_input(slot, l, [&](auto input) {
            differentiate_kernel(team_, layer.shape, input, gradient.source(),
                                 layer.grad_kernel + slot * layer.kernel_size());
          });
          differentiate_input(team_, layer.shape, gradient.source(),
                              layer.kernel + slot * layer.kernel_size(), to, epilogue);
        };
        const auto make = [&](auto relu, const float* of) {
          return LayerGradient<decltype(relu)::value>(
              n, layer.grad_scale + at, layer.grad_bias + at, layer.pixels(),
              AsIs{of, layer.shape.features}, layer.output(slot));
        };
        if (passed != nullptr)
          differentiate(make(std::false_type(), passed));
        else
          differentiate(make(std::true_type(), g));
        g = to;
      }
    }
  }

  // Runs the blocks of slots 0 to depth - 1 by statistics that are given.
  void evaluate(int64_t depth, const Scratch& scratch, float* z) const {
    const float* x = x_;
    for (int64_t slot = 0; slot < depth; ++slot) {
      const float* from = x;
      for (size_t l = 0; l < layers_.size(); ++l) {
        const Layer& layer = layers_[l];
        const bool last = l + 1 == layers_.size();
        const Coefficients coefficients(layer.normalization(slot));
        Epilogue epilogue;
        epilogue.factor = coefficients.scaling().factor;
        epilogue.shift = coefficients.scaling().shift;
        epilogue.relu = true;
        if (last && residual_) epilogue.addend = x;
        float* to = last && slot + 1 == depth ? z : unused(scratch, {x, from});
        convolve(team_, layer.shape, AsIs{from, layer.shape.channels},
                 layer.kernel + slot * layer.kernel_size(), to, epilogue);
        from = to;
      }
      x = from;
    }
  }

 private:
  float* input(int64_t slot) const {
    return inputs_ + (slot - 1) * layers_.front().pixels() * layers_.front().shape.channels;
  }
  const float* block_input(int64_t slot) const { return slot == 0 ? x_ : input(slot); }

  // Calls function(source) with what a layer reads.
  template <typename Function>
  void with_input(int64_t slot, size_t l, const Function& function) const {
    if (l == 0 && (residual_ || slot == 0)) {
      function(AsIs{block_input(slot), layers_.front().shape.channels});
    } else {
      const Layer& before = l > 0 ? layers_[l - 1] : layers_.back();
      const int64_t its_slot = l > 0 ? slot : slot - 1;
      const Coefficients coefficients(before.normalization(its_slot));
      function(Normalized{before.output(its_slot), coefficients.scaling()});
    }
  }

  void end_block(int64_t slot, float* z) const {
    const Layer& layer = layers_.back();
    const Coefficients coefficients(layer.normalization(slot));
    Epilogue epilogue;
    epilogue.factor = coefficients.scaling().factor;
    epilogue.shift = coefficients.scaling().shift;
    epilogue.addend = residual_ ? block_input(slot) : nullptr;
    epilogue.relu = true;
    normalize(team_, layer.output(slot).x, layer.pixels(), layer.shape.features, epilogue, z);
  }

  static float* unused(const Scratch& scratch, std::initializer_list<const float*> used) {
    return *std::find_if(scratch.begin(), scratch.end(), [&](float* one) {
      return std::find(used.begin(), used.end(), one) == used.end();
    });
  }

  Team& team_;
  std::vector<Layer> layers_;
  bool residual_;
  const float* x_;
  float* inputs_;
};

}  // namespace autogrow
