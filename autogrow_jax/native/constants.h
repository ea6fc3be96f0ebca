// What sizes registers, tiles and tasks. Sums are cut by these numbers and the shapes alone:
// whoever changes one changes the last bits of results. The numbers of Winograd's transforms are in
// winograd.h.

#pragma once

#include <cstdint>

namespace autogrow {

// Channels go in blocks of one register; so many sums are held in registers at once.
#if defined(__AVX512F__)
constexpr int kBlock = 16, kSums = 16;
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int kBlock = 8, kSums = 12;
#else
constexpr int kBlock = 4, kSums = 12;
#endif

// Added to a variance in front of the root; native/layers.py holds the same.
constexpr float kEpsilon = 1e-5f;

// Tasks a call is cut into where it is large enough; fixed, so that sums are too.
constexpr int64_t kTasks = 16;
// What a task should copy at most, in floats: half of a common second-level cache.
constexpr int64_t kScratch = 64 * 1024;
// The same of transformed tiles, which are read once and may fill more of it.
constexpr int64_t kTransformed = 96 * 1024;
// Partial sums of a kernel's gradient that are held at once, in floats.
constexpr int64_t kMostSums = 2 * 1024 * 1024;
// Tiles of a group in the gradient by Winograd's filtering.
constexpr int64_t kGradientGroup = 32;
// Its blocks of channels and of features, whose sums a core's cache should hold.
constexpr int64_t kMostBlocks = 64 / kBlock;

// Values of a normalisation's task, and its tasks at most.
constexpr int64_t kPiece = 16 * 1024, kMostPieces = 256;
// Pixels whose sums are taken in float32.
constexpr int64_t kPixels = 64;

// A line of a cache in floats, and a large page of memory in bytes.
constexpr int64_t kLine = 16, kPage = 2 * 1024 * 1024;
// Rounds of waiting: some 25 microseconds, more than what lies between two phases of a layer.
constexpr int64_t kSpins = 2000;

}  // namespace autogrow
