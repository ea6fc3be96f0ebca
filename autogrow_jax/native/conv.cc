// Convolutions and their gradients as custom calls of XLA's CPU backend.

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "ffi.h"

namespace {

using namespace autogrow;

using Images = ffi::Buffer<ffi::F32, 4>;
using Result = ffi::Result<Images>;

ffi::Error run_forward(ffi::ThreadPool pool, Images x, Images kernel, Geometry geometry, Result y) {
  return guarded([&] {
    const Shape shape = make_shape(x.dimensions(), kernel.dimensions(), y->dimensions(), geometry);
    Team team(pool);
    convolve(team, shape, AsIs{x.typed_data(), shape.channels}, kernel.typed_data(),
             y->typed_data());
  });
}

ffi::Error run_input_gradient(ffi::ThreadPool pool, Images g, Images kernel, Geometry geometry,
                              Result grad_x) {
  return guarded([&] {
    const Shape shape =
        make_shape(grad_x->dimensions(), kernel.dimensions(), g.dimensions(), geometry);
    Team team(pool);
    differentiate_input(team, shape, AsIs{g.typed_data(), shape.features}, kernel.typed_data(),
                        grad_x->typed_data());
  });
}

ffi::Error run_kernel_gradient(ffi::ThreadPool pool, Images x, Images g, Geometry geometry,
                               Result grad_kernel) {
  return guarded([&] {
    const Shape shape =
        make_shape(x.dimensions(), grad_kernel->dimensions(), g.dimensions(), geometry);
    Team team(pool);
    differentiate_kernel(team, shape, AsIs{x.typed_data(), shape.channels},
                         AsIs{g.typed_data(), shape.features}, grad_kernel->typed_data());
  });
}

// Leaves the result as it is. Large ones are first touched here, step after step: fewer, larger
// pages halve what that costs.
ffi::Error empty(ffi::Result<ffi::AnyBuffer> result) {
#if defined(__linux__)
  const uintptr_t begin = reinterpret_cast<uintptr_t>(result->untyped_data());
  const uintptr_t first = (begin + kPage - 1) / kPage * kPage;
  const uintptr_t end = (begin + result->size_bytes()) / kPage * kPage;
  // Only advice: where it is refused, all is as it was.
  if (first < end) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#endif
  return ffi::Error::Success();
}

auto binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Arg<Images>()
      .Arg<Images>()
      .Attrs<Geometry>()
      .Ret<Images>();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(AutogrowForward, run_forward, binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(AutogrowInputGradient, run_input_gradient, binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(AutogrowKernelGradient, run_kernel_gradient, binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(AutogrowEmpty, empty, ffi::Ffi::Bind().Ret<ffi::AnyBuffer>());

// Whether the processor this was built for has registers for what the kernels hold in them.
// Elsewhere results are right, but XLA's own convolutions are faster.
extern "C" int AutogrowIsFast() { return kBlock >= 8; }
