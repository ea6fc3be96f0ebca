// Stacks of blocks as custom calls of XLA's CPU backend. All operands are float32 but `depth`, an
// int32; those of blocks have a leading axis of slots.

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "chain.h"
#include "ffi.h"

namespace {

using namespace autogrow;

// The next layer of a stack that keeps the images' size: kernel [slots, K, K, C, F], scale, bias.
// So many slots as `depth` hold a block.
Layer read_layer(Operands& operands, const ffi::AnyBuffer& x, int64_t depth) {
  const auto kernel = operands.next();
  const auto images = x.dimensions(), sizes = kernel.dimensions();
  if (depth > sizes[0])
    throw std::invalid_argument("a stack's depth is more than its slots: " + std::to_string(depth) +
                                " of " + std::to_string(sizes[0]));
  const int64_t padding = (sizes[1] - 1) / 2;
  const std::array<int64_t, 4> in{images[0], images[1], images[2], sizes[3]};
  const std::array<int64_t, 4> out{images[0], images[1], images[2], sizes[4]};
  using Sizes = ffi::AnyBuffer::Dimensions;
  Layer layer{
      make_shape(Sizes(in.data(), 4), sizes, Sizes(out.data(), 4), {1, 1, padding, padding, true}),
      data(kernel)};
  layer.scale = data(operands.next());
  layer.bias = data(operands.next());
  return layer;
}

// Less than no block is none, as for a loop.
int64_t read_depth(const ffi::AnyBuffer& depth) {
  return std::max<int32_t>(*depth.typed_data<int32_t>(), 0);
}

// Zeros for the slots that hold no block.
void clear_rest(const ffi::AnyBuffer& result, int64_t depth) {
  const int64_t all = result.element_count(), slots = result.dimensions()[0];
  std::fill(data(result) + all / slots * depth, data(result) + all, 0.0f);
}

Stack::Scratch split_scratch(const ffi::AnyBuffer& scratch) {
  const int64_t size = scratch.element_count() / 3;
  return {data(scratch), data(scratch) + size, data(scratch) + 2 * size};
}

// What a stack of no block makes of its input, by all threads.
void copy_all(Team& team, const ffi::AnyBuffer& from, float* to) {
  const int64_t channels = from.dimensions().back();
  normalize(team, data(from), from.element_count() / channels, channels, {}, to);
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
      Layer layer = read_layer(operands, x, depth);
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
    if (depth == 0) copy_all(team, x, data(z));
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
      Layer layer = read_layer(operands, x, depth);
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
    if (depth == 0) copy_all(team, g, data(grad_x));
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
      Layer layer = read_layer(operands, x, depth);
      layer.mean = data(operands.next());
      layer.variance = data(operands.next());
      layers.push_back(layer);
    }
    Team team(pool);
    Stack(team, std::move(layers), residual, data(x), nullptr)
        .evaluate(depth, split_scratch(scratch), data(z));
    if (depth == 0) copy_all(team, x, data(z));
  });
}

auto bind() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Attr<bool>("residual")
      .RemainingArgs()
      .RemainingRets();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(AutogrowStack, stack, bind());
XLA_FFI_DEFINE_HANDLER_SYMBOL(AutogrowStackGradient, stack_gradient, bind());
XLA_FFI_DEFINE_HANDLER_SYMBOL(AutogrowEvaluatedStack, evaluated_stack, bind());
