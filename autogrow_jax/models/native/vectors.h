// Registers of floats.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace autogrow {

// Channels go in blocks of one register; so many sums are held in registers at once.
#if defined(__AVX512F__)
constexpr int kBlock = 16, kSums = 16;
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int kBlock = 8, kSums = 12;
#else
constexpr int kBlock = 4, kSums = 12;
#endif
using Vector = float __attribute__((vector_size(4 * kBlock), aligned(4)));

inline int64_t blocks_of(int64_t channels) { return (channels + kBlock - 1) / kBlock; }

inline Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
inline void store(float* to, const Vector& value) { *reinterpret_cast<Vector*>(to) = value; }

// The first `count` floats, or the whole register; zeros beyond.
inline Vector load_some(const float* from, int64_t count) {
  if (count >= kBlock) return load(from);
  Vector value{};
  for (int64_t i = 0; i < count; ++i) value[i] = from[i];
  return value;
}

inline void store_some(float* to, const Vector& value, int64_t count) {
  if (count >= kBlock) {
    store(to, value);
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = value[i];
  }
}

// Asks for a line of memory that will be read or written.
inline void prefetch(const float* line) {
  __builtin_prefetch(line);
  // GCC takes a function that does nothing else for one that does nothing, and drops calls of it.
  asm volatile("");
}
inline void prefetch_to_write(const float* line) {
  __builtin_prefetch(line, 1);
  asm volatile("");
}

// What is not a number stays so, as a run must not go on unaware of it.
inline Vector relu(const Vector& value) { return value < 0.0f ? Vector{} : value; }

}  // namespace autogrow
