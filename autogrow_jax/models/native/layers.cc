// A convolution with its normalisation, and stacks of blocks of these, as custom calls of XLA's CPU
// backend. All operands are float32 but `depth`; a leading axis of slots where it says so.

#include <memory>
#include <utility>

#include "chain.h"
#include "ffi.h"

namespace {

using namespace autogrow;

// Operands or results, one after the other.
template <class Remaining>
class Reader {
 public:
  explicit Reader(Remaining all) : all_(all) {}

  ffi::AnyBuffer next() {
    auto found = all_.template get<ffi::AnyBuffer>(place_++);
    if (found.has_error()) throw std::invalid_argument("a custom call lacks an operand");
    if constexpr (std::is_same_v<Remaining, ffi::RemainingArgs>)
      return *found;
    else
      return **found;
  }
  bool any() const { return place_ < all_.size(); }

 private:
  Remaining all_;
  size_t place_ = 0;
};
using Operands = Reader<ffi::RemainingArgs>;
using Results = Reader<ffi::RemainingRets>;

float* data(const ffi::AnyBuffer& buffer) { return buffer.typed_data<float>(); }

// Of an operand that may be absent, which has no elements then.
const float* data_if_any(const ffi::AnyBuffer& buffer) {
  return buffer.element_count() == 0 ? nullptr : data(buffer);
}

// Operands: x, kernel, scale, bias, addend [N, OH, OW, F] or [0]. Results: z, y, mean, variance.
ffi::Error layer(ffi::ThreadPool pool, int64_t row_stride, int64_t column_stride, int64_t top,
                 int64_t left, bool relu, ffi::RemainingArgs args, ffi::RemainingRets rets) {
  return guarded([&] {
    Operands operands(args);
    Results results(rets);
    const auto x = operands.next(), kernel = operands.next(), scale = operands.next(),
               bias = operands.next(), addend = operands.next();
    const auto z = results.next(), y = results.next(), mean = results.next(),
               variance = results.next();
    const Shape shape = make_shape(x.dimensions(), kernel.dimensions(), y.dimensions(),
                                   {row_stride, column_stride, top, left});
    Team team(pool);
    convolve(team, shape, AsIs{data(x), shape.channels}, data(kernel), data(y),
             Statistics{data(mean), data(variance)});
    const Coefficients coefficients(
        {data(scale), data(bias), data(mean), data(variance), shape.features});
    normalize(team, data(y), shape.images * shape.out_height * shape.out_width, shape.features,
              {coefficients.scaling().factor, coefficients.scaling().shift, data_if_any(addend),
               relu},
              data(z));
  });
}

// Operands: x, kernel, scale, bias, mean, variance, addend or [0]. Result: z.
ffi::Error evaluated_layer(ffi::ThreadPool pool, int64_t row_stride, int64_t column_stride,
                           int64_t top, int64_t left, bool relu, ffi::RemainingArgs args,
                           ffi::RemainingRets rets) {
  return guarded([&] {
    Operands operands(args);
    const auto x = operands.next(), kernel = operands.next(), scale = operands.next(),
               bias = operands.next(), mean = operands.next(), variance = operands.next(),
               addend = operands.next();
    const auto z = Results(rets).next();
    const Shape shape = make_shape(x.dimensions(), kernel.dimensions(), z.dimensions(),
                                   {row_stride, column_stride, top, left});
    const Coefficients coefficients(
        {data(scale), data(bias), data(mean), data(variance), shape.features});
    Team team(pool);
    convolve(team, shape, AsIs{data(x), shape.channels}, data(kernel), data(z),
             Epilogue{coefficients.scaling().factor, coefficients.scaling().shift,
                      data_if_any(addend), relu});
  });
}

// Operands: y, g, scale, bias, mean, variance, addend or [0]. Results: the gradients of scale and
// bias; where there is an addend, its own gradient, else [0].
ffi::Error normalization_gradient(ffi::ThreadPool pool, bool relu, ffi::RemainingArgs args,
                                  ffi::RemainingRets rets) {
  return guarded([&] {
    Operands operands(args);
    Results results(rets);
    const auto y = operands.next(), g = operands.next(), scale = operands.next(),
               bias = operands.next(), mean = operands.next(), variance = operands.next(),
               addend = operands.next();
    const auto grad_scale = results.next(), grad_bias = results.next(), passed = results.next();
    const int64_t channels = scale.element_count(), pixels = y.element_count() / channels;
    const Normalization n{data(scale), data(bias), data(mean), data(variance), channels};
    const float* added = data_if_any(addend);
    Team team(pool);
    (relu ? differentiate_normalization<true> : differentiate_normalization<false>)(
        team, n, data(y), data(g), added, pixels, data(grad_scale), data(grad_bias),
        added != nullptr ? data(passed) : nullptr);
  });
}

// Calls function(source) with the gradient of the layer's convolution. Operands: y, g, scale, bias,
// mean, variance, and the gradients of scale and bias.
template <typename Function>
void with_gradient(Operands& operands, bool relu, const Function& function) {
  const auto y = operands.next(), g = operands.next(), scale = operands.next(),
             bias = operands.next(), mean = operands.next(), variance = operands.next(),
             grad_scale = operands.next(), grad_bias = operands.next();
  const int64_t channels = scale.element_count(), pixels = y.element_count() / channels;
  const Normalization n{data(scale), data(bias), data(mean), data(variance), channels};
  const auto call = [&](auto with_relu) {
    const LayerGradient<decltype(with_relu)::value> gradient(
        n, data(grad_scale), data(grad_bias), pixels, AsIs{data(g), channels},
        AsIs{data(y), channels});
    function(y, gradient.source());
  };
  relu ? call(std::true_type()) : call(std::false_type());
}

// Operands: kernel, then those of with_gradient. Result: the gradient of x.
ffi::Error layer_input_gradient(ffi::ThreadPool pool, int64_t row_stride, int64_t column_stride,
                                int64_t top, int64_t left, bool relu, ffi::RemainingArgs args,
                                ffi::RemainingRets rets) {
  return guarded([&] {
    Operands operands(args);
    const auto kernel = operands.next();
    const auto grad_x = Results(rets).next();
    with_gradient(operands, relu, [&](const ffi::AnyBuffer& y, auto gradient) {
      const Shape shape = make_shape(grad_x.dimensions(), kernel.dimensions(), y.dimensions(),
                                     {row_stride, column_stride, top, left});
      Team team(pool);
      differentiate_input(team, shape, gradient, data(kernel), data(grad_x));
    });
  });
}

// Operands: x, then those of with_gradient. Result: the gradient of the kernel.
ffi::Error layer_kernel_gradient(ffi::ThreadPool pool, int64_t row_stride, int64_t column_stride,
                                 int64_t top, int64_t left, bool relu, ffi::RemainingArgs args,
                                 ffi::RemainingRets rets) {
  return guarded([&] {
    Operands operands(args);
    const auto x = operands.next();
    const auto grad_kernel = Results(rets).next();
    with_gradient(operands, relu, [&](const ffi::AnyBuffer& y, auto gradient) {
      const Shape shape = make_shape(x.dimensions(), grad_kernel.dimensions(), y.dimensions(),
                                     {row_stride, column_stride, top, left});
      Team team(pool);
      differentiate_kernel(team, shape, AsIs{data(x), shape.channels}, gradient,
                           data(grad_kernel));
    });
  });
}

// A layer of a stack that keeps the images' size; kernel [slots, K, K, C, F].
Layer make_layer(const ffi::AnyBuffer& x, const ffi::AnyBuffer& kernel) {
  const auto images = x.dimensions(), sizes = kernel.dimensions();
  const int64_t padding = (sizes[1] - 1) / 2;
  const std::array<int64_t, 4> in{images[0], images[1], images[2], sizes[3]};
  const std::array<int64_t, 4> out{images[0], images[1], images[2], sizes[4]};
  using Sizes = ffi::AnyBuffer::Dimensions;
  return {make_shape(Sizes(in.data(), 4), sizes, Sizes(out.data(), 4), {1, 1, padding, padding}),
          data(kernel)};
}

int64_t read_depth(const ffi::AnyBuffer& depth) { return *depth.typed_data<int32_t>(); }

// Zeros for the slots that hold no block.
void clear_rest(const ffi::AnyBuffer& result, int64_t depth) {
  const int64_t all = result.element_count(), slots = result.dimensions()[0];
  std::fill(data(result) + all / slots * depth, data(result) + all, 0.0f);
}

Stack::Scratch split_scratch(const ffi::AnyBuffer& scratch) {
  const int64_t size = scratch.element_count() / 3;
  return {data(scratch), data(scratch) + size, data(scratch) + 2 * size};
}

void copy_all(const ffi::AnyBuffer& from, float* to) {
  std::copy(data(from), data(from) + from.element_count(), to);
}

// Operands: depth, x, then of each layer kernel, scale, bias. Results: z, the inputs of blocks from
// slot 1 on, or [0], then of each layer y, mean, variance.
ffi::Error stack(ffi::ThreadPool pool, bool residual, ffi::RemainingArgs args,
                 ffi::RemainingRets rets) {
  return guarded([&] {
    Operands operands(args);
    Results results(rets);
    const int64_t depth = read_depth(operands.next());
    const auto x = operands.next();
    const auto z = results.next(), inputs = results.next();
    std::vector<Layer> layers;
    while (operands.any()) {
      const auto kernel = operands.next();
      Layer layer = make_layer(x, kernel);
      layer.scale = data(operands.next());
      layer.bias = data(operands.next());
      layer.y = data(results.next());
      const auto mean = results.next(), variance = results.next();
      layer.mean = data(mean);
      layer.variance = data(variance);
      clear_rest(mean, depth);
      clear_rest(variance, depth);
      layers.push_back(layer);
    }
    Team team(pool);
    Stack(team, std::move(layers), residual, data(x), data(inputs)).forward(depth, data(z));
    if (depth == 0) copy_all(x, data(z));
  });
}

// Operands: depth, x, the gradient of z, inputs, then of each layer kernel, scale, bias, y, mean,
// variance. Results: the gradient of x, scratch [3, ...], then of each layer the gradients of
// kernel, scale, bias.
ffi::Error stack_gradient(ffi::ThreadPool pool, bool residual, ffi::RemainingArgs args,
                          ffi::RemainingRets rets) {
  return guarded([&] {
    Operands operands(args);
    Results results(rets);
    const int64_t depth = read_depth(operands.next());
    const auto x = operands.next(), g = operands.next(), inputs = operands.next();
    const auto grad_x = results.next(), scratch = results.next();
    std::vector<Layer> layers;
    while (operands.any()) {
      const auto kernel = operands.next();
      Layer layer = make_layer(x, kernel);
      layer.scale = data(operands.next());
      layer.bias = data(operands.next());
      layer.y = data(operands.next());
      layer.mean = data(operands.next());
      layer.variance = data(operands.next());
      for (float** gradient : {&layer.grad_kernel, &layer.grad_scale, &layer.grad_bias}) {
        const auto result = results.next();
        *gradient = data(result);
        clear_rest(result, depth);
      }
      layers.push_back(layer);
    }
    Team team(pool);
    Stack(team, std::move(layers), residual, data(x), data(inputs))
        .backward(depth, data(g), split_scratch(scratch), data(grad_x));
    if (depth == 0) copy_all(g, data(grad_x));
  });
}

// Operands: depth, x, then of each layer kernel, scale, bias, mean, variance. Results: z, scratch
// [3, ...].
ffi::Error evaluated_stack(ffi::ThreadPool pool, bool residual, ffi::RemainingArgs args,
                           ffi::RemainingRets rets) {
  return guarded([&] {
    Operands operands(args);
    Results results(rets);
    const int64_t depth = read_depth(operands.next());
    const auto x = operands.next();
    const auto z = results.next(), scratch = results.next();
    std::vector<Layer> layers;
    while (operands.any()) {
      const auto kernel = operands.next();
      Layer layer = make_layer(x, kernel);
      layer.scale = data(operands.next());
      layer.bias = data(operands.next());
      layer.mean = data(operands.next());
      layer.variance = data(operands.next());
      layers.push_back(layer);
    }
    Team team(pool);
    Stack(team, std::move(layers), residual, data(x), nullptr)
        .evaluate(depth, split_scratch(scratch), data(z));
    if (depth == 0) copy_all(x, data(z));
  });
}

auto bind() { return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>(); }
auto bind_layer() {
  return bind()
      .Attr<int64_t>("row_stride")
      .Attr<int64_t>("column_stride")
      .Attr<int64_t>("top")
      .Attr<int64_t>("left")
      .Attr<bool>("relu")
      .RemainingArgs()
      .RemainingRets();
}
auto bind_stack() { return bind().Attr<bool>("residual").RemainingArgs().RemainingRets(); }

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(AutogrowLayer, layer, bind_layer());
XLA_FFI_DEFINE_HANDLER_SYMBOL(AutogrowEvaluatedLayer, evaluated_layer, bind_layer());
XLA_FFI_DEFINE_HANDLER_SYMBOL(AutogrowNormalizationGradient, normalization_gradient,
                              bind().Attr<bool>("relu").RemainingArgs().RemainingRets());
XLA_FFI_DEFINE_HANDLER_SYMBOL(AutogrowLayerInputGradient, layer_input_gradient, bind_layer());
XLA_FFI_DEFINE_HANDLER_SYMBOL(AutogrowLayerKernelGradient, layer_kernel_gradient, bind_layer());
XLA_FFI_DEFINE_HANDLER_SYMBOL(AutogrowStack, stack, bind_stack());
XLA_FFI_DEFINE_HANDLER_SYMBOL(AutogrowStackGradient, stack_gradient, bind_stack());
XLA_FFI_DEFINE_HANDLER_SYMBOL(AutogrowEvaluatedStack, evaluated_stack, bind_stack());
