// A convolution with its normalisation as custom calls of XLA's CPU backend; all operands are
// float32.

#include "chain.h"
#include "ffi.h"

namespace {

using namespace autogrow;

// Operands: x, kernel, scale, bias, addend [N, OH, OW, F] or [0]. Results: z, y, mean, variance.
ffi::Error layer(ffi::ThreadPool pool, Geometry geometry, ffi::RemainingArgs args,
                 ffi::RemainingRets rets) {
  return guarded([&] {
    Operands operands(args);
    Results results(rets);
    const auto x = operands.next(), kernel = operands.next(), scale = operands.next(),
               bias = operands.next(), addend = operands.next();
    const auto z = results.next(), y = results.next(), mean = results.next(),
               variance = results.next();
    const Shape shape = make_shape(x.dimensions(), kernel.dimensions(), y.dimensions(), geometry);
    Team team(pool);
    convolve(team, shape, AsIs{data(x), shape.channels}, data(kernel), data(y),
             Statistics{data(mean), data(variance)});
    const Coefficients coefficients(
        {data(scale), data(bias), data(mean), data(variance), shape.features});
    normalize(team, data(y), shape.images * shape.out_height * shape.out_width, shape.features,
              {coefficients.scaling().factor, coefficients.scaling().shift, data_if_any(addend),
               geometry.relu},
              data(z));
  });
}

// Operands: x, kernel, scale, bias, mean, variance, addend or [0]. Result: z.
ffi::Error evaluated_layer(ffi::ThreadPool pool, Geometry geometry, ffi::RemainingArgs args,
                           ffi::RemainingRets rets) {
  return guarded([&] {
    Operands operands(args);
    const auto x = operands.next(), kernel = operands.next(), scale = operands.next(),
               bias = operands.next(), mean = operands.next(), variance = operands.next(),
               addend = operands.next();
    const auto z = Results(rets).next();
    const Shape shape = make_shape(x.dimensions(), kernel.dimensions(), z.dimensions(), geometry);
    const Coefficients coefficients(
        {data(scale), data(bias), data(mean), data(variance), shape.features});
    Team team(pool);
    convolve(team, shape, AsIs{data(x), shape.channels}, data(kernel), data(z),
             Epilogue{coefficients.scaling().factor, coefficients.scaling().shift,
                      data_if_any(addend), geometry.relu});
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
    (relu ? differentiate_normalization<true>
          : differentiate_normalization<false>)(team, n, data(y), data(g), added, pixels,
                                                data(grad_scale), data(grad_bias),
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
    const LayerGradient<decltype(with_relu)::value> gradient(n, data(grad_scale), data(grad_bias),
                                                             pixels, AsIs{data(g), channels},
                                                             AsIs{data(y), channels});
    function(y, gradient.source());
  };
  relu ? call(std::true_type()) : call(std::false_type());
}

// Operands: kernel, then those of with_gradient. Result: the gradient of x.
ffi::Error layer_input_gradient(ffi::ThreadPool pool, Geometry geometry, ffi::RemainingArgs args,
                                ffi::RemainingRets rets) {
  return guarded([&] {
    Operands operands(args);
    const auto kernel = operands.next();
    const auto grad_x = Results(rets).next();
    with_gradient(operands, geometry.relu, [&](const ffi::AnyBuffer& y, auto gradient) {
      const Shape shape =
          make_shape(grad_x.dimensions(), kernel.dimensions(), y.dimensions(), geometry);
      Team team(pool);
      differentiate_input(team, shape, gradient, data(kernel), data(grad_x));
    });
  });
}

// Operands: x, then those of with_gradient. Result: the gradient of the kernel.
ffi::Error layer_kernel_gradient(ffi::ThreadPool pool, Geometry geometry, ffi::RemainingArgs args,
                                 ffi::RemainingRets rets) {
  return guarded([&] {
    Operands operands(args);
    const auto x = operands.next();
    const auto grad_kernel = Results(rets).next();
    with_gradient(operands, geometry.relu, [&](const ffi::AnyBuffer& y, auto gradient) {
      const Shape shape =
          make_shape(x.dimensions(), grad_kernel.dimensions(), y.dimensions(), geometry);
      Team team(pool);
      differentiate_kernel(team, shape, AsIs{data(x), shape.channels}, gradient, data(grad_kernel));
    });
  });
}

auto bind() { return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>(); }
auto bind_layer() { return bind().Attrs<Geometry>().RemainingArgs().RemainingRets(); }

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(AutogrowLayer, layer, bind_layer());
XLA_FFI_DEFINE_HANDLER_SYMBOL(AutogrowEvaluatedLayer, evaluated_layer, bind_layer());
XLA_FFI_DEFINE_HANDLER_SYMBOL(AutogrowNormalizationGradient, normalization_gradient,
                              bind().Attr<bool>("relu").RemainingArgs().RemainingRets());
XLA_FFI_DEFINE_HANDLER_SYMBOL(AutogrowLayerInputGradient, layer_input_gradient, bind_layer());
XLA_FFI_DEFINE_HANDLER_SYMBOL(AutogrowLayerKernelGradient, layer_kernel_gradient, bind_layer());
