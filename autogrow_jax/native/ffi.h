// What the custom calls have in common.

#pragma once

#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "convolution.h"
#include "xla/ffi/api/ffi.h"

namespace autogrow {

namespace ffi = xla::ffi;

// The call's outcome; what it throws is an error of XLA's.
template <typename Function>
ffi::Error guarded(const Function& function) {
  try {
    function();
    return ffi::Error::Success();
  } catch (const std::invalid_argument& error) {
    return ffi::Error::InvalidArgument(error.what());
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "no memory for a convolution's scratch");
  } catch (const std::exception& error) {
    return ffi::Error::Internal(error.what());
  }
}

// Where the kernel is laid on the images: attributes of a call. The last one says whether a layer
// ends in a ReLU; a convolution alone has none.
struct Geometry {
  int64_t row_stride, column_stride, top, left;
  bool relu;
};

template <typename Dimensions>
std::string to_string(const Dimensions& sizes) {
  std::string text;
  for (const int64_t size : sizes) text += (text.empty() ? "[" : ", ") + std::to_string(size);
  return text.empty() ? "[]" : text + "]";
}

// Of x [N, H, W, C], kernel [KH, KW, C, F] and y [N, OH, OW, F]; any may have more axes before.
template <typename Dimensions>
Shape make_shape(Dimensions x, Dimensions kernel, Dimensions y, const Geometry& geometry) {
  const auto from_end = [](const Dimensions& sizes, size_t i) { return sizes[sizes.size() - i]; };
  const auto refuse = [&](const std::string& why) {
    throw std::invalid_argument(why + ": x " + to_string(x) + ", kernel " + to_string(kernel) +
                                ", output " + to_string(y) + ", strides " +
                                std::to_string(geometry.row_stride) + " and " +
                                std::to_string(geometry.column_stride));
  };
  for (const Dimensions* sizes : {&x, &kernel, &y})
    if (sizes->size() < 4) refuse("a convolution takes operands of four axes");
  const Shape shape{from_end(x, 4),      from_end(x, 3),         from_end(x, 2),
                    from_end(x, 1),      from_end(y, 3),         from_end(y, 2),
                    from_end(y, 1),      from_end(kernel, 4),    from_end(kernel, 3),
                    geometry.row_stride, geometry.column_stride, geometry.top,
                    geometry.left};
  if (from_end(y, 4) != shape.images || from_end(kernel, 2) != shape.channels ||
      from_end(kernel, 1) != shape.features)
    refuse("a convolution's shapes do not fit");
  if (shape.row_stride < 1 || shape.column_stride < 1 || shape.column_stride > 2)
    refuse("a convolution takes strides of at least 1, and of at most 2 from column to column");
  return shape;
}

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

inline float* data(const ffi::AnyBuffer& buffer) { return buffer.typed_data<float>(); }

// Of an operand that may be absent, which has no elements then.
inline const float* data_if_any(const ffi::AnyBuffer& buffer) {
  return buffer.element_count() == 0 ? nullptr : data(buffer);
}

}  // namespace autogrow

XLA_FFI_REGISTER_STRUCT_ATTR_DECODING(autogrow::Geometry,
                                      xla::ffi::StructMember<int64_t>("row_stride"),
                                      xla::ffi::StructMember<int64_t>("column_stride"),
                                      xla::ffi::StructMember<int64_t>("top"),
                                      xla::ffi::StructMember<int64_t>("left"),
                                      xla::ffi::StructMember<bool>("relu"));
