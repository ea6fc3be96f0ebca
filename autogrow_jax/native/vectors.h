// Registers of floats.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "constants.h"

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace autogrow {

using Vector = float __attribute__((vector_size(4 * kBlock), aligned(4)));

inline int64_t blocks_of(int64_t channels) { return (channels + kBlock - 1) / kBlock; }

inline Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
inline void store(float* to, const Vector& value) { *reinterpret_cast<Vector*>(to) = value; }

// Masked where the processor can: filled one by one, a register waits until memory has the last.
#if defined(__AVX512F__)
inline __mmask16 first_lanes(int64_t count) { return (1u << count) - 1; }
inline Vector load_first(const float* from, int64_t count) {
  return _mm512_maskz_loadu_ps(first_lanes(count), from);
}
inline void store_first(float* to, const Vector& value, int64_t count) {
  _mm512_mask_storeu_ps(to, first_lanes(count), value);
}
#elif defined(__AVX2__) && defined(__FMA__)
inline __m256i first_lanes(int64_t count) {
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), lanes);
}
inline Vector load_first(const float* from, int64_t count) {
  return _mm256_maskload_ps(from, first_lanes(count));
}
inline void store_first(float* to, const Vector& value, int64_t count) {
  _mm256_maskstore_ps(to, first_lanes(count), value);
}
#else
inline Vector load_first(const float* from, int64_t count) {
  Vector value{};
  for (int64_t i = 0; i < count; ++i) value[i] = from[i];
  return value;
}
inline void store_first(float* to, const Vector& value, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = value[i];
}
#endif

// The first `count` floats, or the whole register; zeros beyond.
inline Vector load_some(const float* from, int64_t count) {
  return count >= kBlock ? load(from) : load_first(from, count);
}

inline void store_some(float* to, const Vector& value, int64_t count) {
  count >= kBlock ? store(to, value) : store_first(to, value, count);
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
