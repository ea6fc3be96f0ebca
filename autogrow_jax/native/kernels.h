// Direct convolutions of float32 images, for one thread: what a task of a convolution computes.
//
// A task copies the rows it needs into a scratch buffer [channel block, row, column, kBlock] with
// its zero padding, so that the inner loops know nothing of borders and all their offsets are
// constants. Each sum runs in an order that the shapes alone fix: results do not depend on the
// number of threads.

#pragma once

#include <vector>

#include "epilogue.h"
#include "sources.h"

namespace autogrow {

// A part of images [N, height, width, channels], copied with zeros around it:
// [channel block, image, row, column, kBlock].
struct Window {
  int64_t images, rows, columns;  // Of each block.
  int64_t blocks;

  int64_t row_size() const { return columns * kBlock; }
  int64_t block_size() const { return images * rows * row_size(); }
  int64_t size() const { return blocks * block_size(); }

  // Copies `images` images from `first_image` on, rows and columns from (top, left) on, which may
  // lie outside the image.
  template <class Source>
  void fill(float* to, const Source& from, int64_t height, int64_t width, int64_t channels,
            int64_t first_image, int64_t top, int64_t left) const {
    const int64_t begin = std::clamp<int64_t>(-left, 0, columns);
    const int64_t end = std::max(begin, std::min(columns, width - left));
    for (int64_t image = 0; image < images; ++image) {
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t y = top + row;
        float* line = to + (image * rows + row) * row_size();
        if (y < 0 || y >= height) {
          for (int64_t b = 0; b < blocks; ++b)
            std::memset(line + b * block_size(), 0, row_size() * sizeof(float));
          continue;
        }
        const int64_t at = (((first_image + image) * height + y) * width + left + begin) * channels;
        for (int64_t b = 0; b < blocks; ++b) {
          float* target = line + b * block_size();
          std::memset(target, 0, begin * kBlock * sizeof(float));
          if (channels - b * kBlock >= kBlock)
            copy<true>(target + begin * kBlock, from, at, b * kBlock, end - begin, channels);
          else
            copy<false>(target + begin * kBlock, from, at, b * kBlock, end - begin, channels);
          std::memset(target + end * kBlock, 0, (columns - end) * kBlock * sizeof(float));
        }
      }
    }
  }

 private:
  template <bool Whole, class Source>
  static void copy(float* to, const Source& from, int64_t at, int64_t channel, int64_t pixels,
                   int64_t channels) {
    for (int64_t i = 0; i < pixels; ++i)
      store(to + i * kBlock, from.template read<Whole>(at + i * channels + channel, channel));
  }
};

// Where the sums of a tile go, and what becomes of them on the way.
struct Outputs {
  float* const* to;                    // The first pixel of each row, at the block's first feature.
  int64_t step;                        // From a pixel to the next, in floats.
  int64_t count;                       // Features left; at most kBlock are written.
  const Epilogue* epilogue = nullptr;  // None: the sums themselves are written.
  const float* images = nullptr;       // What the epilogue counts places from.
  int64_t feature = 0;                 // The block's first.
};

// The sums of Rows x Columns output pixels and kBlock features, over all taps and channels.
//
//   from: where the first tap of each row's first pixel reads, in channel block 0.
//   taps: offsets in the scratch, relative to the pixel.
//   weights: [channel block, tap, kBlock, kBlock]; of the last block as many rows as there are
//     channels.
template <int Rows, int Columns, int Stride>
void sum_tile(const float* const* from, int64_t block_size, const int64_t* taps, int64_t num_taps,
              int64_t channels, const float* weights, const Outputs& out) {
  Vector sums[Rows][Columns] = {};
  for (int64_t done = 0; done < channels; done += kBlock) {
    const int64_t offset = (done / kBlock) * block_size;
    const int64_t count = std::min<int64_t>(kBlock, channels - done);
    for (int64_t tap = 0; tap < num_taps; ++tap, weights += kBlock * kBlock) {
      const float* x[Rows];
      for (int r = 0; r < Rows; ++r) x[r] = from[r] + offset + taps[tap];
      const auto add = [&](int64_t c) __attribute__((always_inline)) {
        const Vector weight = load(weights + c * kBlock);
        for (int r = 0; r < Rows; ++r)
          for (int i = 0; i < Columns; ++i) sums[r][i] += x[r][i * Stride * kBlock + c] * weight;
      };
      if (count == kBlock) {
#pragma GCC unroll 4
        for (int64_t c = 0; c < kBlock; ++c) add(c);
      } else {
        for (int64_t c = 0; c < count; ++c) add(c);
      }
    }
  }
  if (out.epilogue == nullptr) {
    for (int r = 0; r < Rows; ++r)
      for (int i = 0; i < Columns; ++i) store_some(out.to[r] + i * out.step, sums[r][i], out.count);
    return;
  }
  for (int r = 0; r < Rows; ++r) {
    for (int i = 0; i < Columns; ++i) {
      float* to = out.to[r] + i * out.step;
      store_some(to, out.epilogue->apply(sums[r][i], to - out.images, out.feature, out.count),
                 out.count);
    }
  }
}

// Adds to the sums over pixels of x^T g: for `Taps` neighbouring columns of the kernel and
// `Channels` channels of x, kBlock features each.
//
//   x, g: a row's first pixel; g's pixels stand g_step floats apart.
//   to: [Taps, kBlock, kBlock], of which the first `Channels` rows are added to.
template <int Taps, int Channels, int Stride>
void add_products(const float* x, int64_t x_row, const float* g, int64_t g_step, int64_t g_row,
                  int64_t rows, int64_t columns, float* to) {
  Vector sums[Taps][Channels];
  for (int t = 0; t < Taps; ++t)
    for (int c = 0; c < Channels; ++c) sums[t][c] = load(to + (t * kBlock + c) * kBlock);
  for (int64_t row = 0; row < rows; ++row, x += x_row, g += g_row) {
    const float* pixel = x;
    const float* gradient = g;
    for (int64_t i = 0; i < columns; ++i, pixel += Stride * kBlock, gradient += g_step) {
      const Vector value = load(gradient);
      for (int t = 0; t < Taps; ++t)
        for (int c = 0; c < Channels; ++c) sums[t][c] += pixel[t * kBlock + c] * value;
    }
  }
  for (int t = 0; t < Taps; ++t)
    for (int c = 0; c < Channels; ++c) store(to + (t * kBlock + c) * kBlock, sums[t][c]);
}

}  // namespace autogrow
