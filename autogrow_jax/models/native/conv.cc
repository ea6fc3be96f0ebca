// The convolutions as custom calls of XLA's CPU backend.

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstdint>
#include <exception>

#include "kernel_gradient.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

using Images = ffi::Buffer<ffi::F32, 4>;
using Result = ffi::Result<Images>;

ffi::Error out_of_memory() {
  return ffi::Error(ffi::ErrorCode::kResourceExhausted, "no memory for a convolution's scratch");
}

// x, kernel and y may be arguments or results; only their dimensions are read.
template <typename X, typename Kernel, typename Y>
ffi::Error make_shape(X& x, Kernel& kernel, Y& y, int64_t row_stride, int64_t column_stride,
                      int64_t top, int64_t left, autogrow::Shape* shape) {
  const auto a = x.dimensions(), k = kernel.dimensions(), b = y.dimensions();
  if (a[0] != b[0] || a[3] != k[2] || b[3] != k[3] || row_stride < 1 || column_stride < 1 ||
      column_stride > 2) {
    return ffi::Error::InvalidArgument("a convolution's shapes do not fit");
  }
  *shape = {a[0], a[1], a[2], a[3], b[1],       b[2],          b[3],
            k[0], k[1], row_stride, column_stride, top, left};
  return ffi::Error::Success();
}

ffi::Error run(ffi::ThreadPool& pool, const autogrow::Correlation& correlation) {
  const bool packed =
      autogrow::run_tasks(pool, correlation.num_packs(), [&](int64_t i) { correlation.pack(i); });
  const bool done = packed && autogrow::run_tasks(pool, correlation.num_tasks(),
                                                  [&](int64_t i) { correlation.run(i); });
  return done ? ffi::Error::Success() : out_of_memory();
}

ffi::Error forward(ffi::ThreadPool pool, Images x, Images kernel, int64_t row_stride,
                   int64_t column_stride, int64_t top, int64_t left, Result y) {
  autogrow::Shape shape;
  ffi::Error error = make_shape(x, kernel, *y, row_stride, column_stride, top, left, &shape);
  if (error.failure()) return error;
  try {
    return run(pool, autogrow::forward(shape, x.typed_data(), kernel.typed_data(),
                                       y->typed_data()));
  } catch (const std::exception&) {
    return out_of_memory();
  }
}

ffi::Error input_gradient(ffi::ThreadPool pool, Images g, Images kernel, int64_t row_stride,
                          int64_t column_stride, int64_t top, int64_t left, Result grad_x) {
  autogrow::Shape shape;
  ffi::Error error = make_shape(*grad_x, kernel, g, row_stride, column_stride, top, left, &shape);
  if (error.failure()) return error;
  try {
    return run(pool, autogrow::input_gradient(shape, g.typed_data(), kernel.typed_data(),
                                              grad_x->typed_data()));
  } catch (const std::exception&) {
    return out_of_memory();
  }
}

ffi::Error kernel_gradient(ffi::ThreadPool pool, Images x, Images g, int64_t row_stride,
                           int64_t column_stride, int64_t top, int64_t left, Result grad_kernel) {
  autogrow::Shape shape;
  ffi::Error error = make_shape(x, *grad_kernel, g, row_stride, column_stride, top, left, &shape);
  if (error.failure()) return error;
  try {
    const autogrow::KernelGradient gradient(shape, x.typed_data(), g.typed_data(),
                                            grad_kernel->typed_data());
    const bool done =
        autogrow::run_tasks(pool, gradient.num_tasks(), [&](int64_t i) { gradient.run(i); }) &&
        autogrow::run_tasks(pool, gradient.num_reductions(),
                            [&](int64_t i) { gradient.reduce(i); });
    return done ? ffi::Error::Success() : out_of_memory();
  } catch (const std::exception&) {
    return out_of_memory();
  }
}

// Leaves the result as it is. Large ones are first touched here, step after step: fewer, larger
// pages halve what that costs.
ffi::Error empty(ffi::Result<ffi::AnyBuffer> result) {
#if defined(__linux__)
  constexpr uintptr_t kPage = 2 * 1024 * 1024;
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
      .Attr<int64_t>("row_stride")
      .Attr<int64_t>("column_stride")
      .Attr<int64_t>("top")
      .Attr<int64_t>("left")
      .Ret<Images>();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(AutogrowForward, forward, binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(AutogrowInputGradient, input_gradient, binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(AutogrowKernelGradient, kernel_gradient, binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(AutogrowEmpty, empty, ffi::Ffi::Bind().Ret<ffi::AnyBuffer>());

// Whether the processor this was built for has registers for what the kernels hold in them.
// Elsewhere results are right, but XLA's own convolutions are faster.
extern "C" int AutogrowIsFast() {
#if defined(__AVX512F__)
  return 1;
#else
  return 0;
#endif
}
