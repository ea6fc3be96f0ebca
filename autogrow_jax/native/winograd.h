// Winograd's minimal filtering for 3x3 kernels: F(4x4, 3x3) and, for the kernel's gradient,
// F(3x3, 4x4) [Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016].
//
// Six by six inputs give four by four outputs by 36 products instead of 144. A product is that of
// two polynomials at a point; the points are 0, a, -a, b, -b and infinity. With the usual a = 1 and
// b = 2 the largest error of an output is ten times that of a direct sum in float32. With a = 5/8
// and b = 3/2, the best of all eighths, it is twice as large. Each transform below is that of one
// line; it is applied to the rows of a square, then to its columns.

#pragma once

#include "sources.h"

namespace autogrow {

constexpr int kTile = 6, kOutputs = 4, kPoints = kTile * kTile;

constexpr float kA = 0.625f, kB = 1.5f, kA2 = kA * kA, kB2 = kB * kB;
// One over the product of a point's differences from the others.
constexpr float kAt0 = 1 / (kA2 * kB2), kAtA = 1 / (2 * kA2 * (kA2 - kB2)),
                kAtB = 1 / (2 * kB2 * (kB2 - kA2));

// Six inputs to their values at the points, in place.
template <int Step>
inline void transform_input_line(Vector* d) {
  const Vector d0 = d[0], d1 = d[Step], d2 = d[2 * Step], d3 = d[3 * Step], d4 = d[4 * Step],
               d5 = d[5 * Step];
  const Vector even_a = d4 - kB2 * d2, odd_a = d3 - kB2 * d1;
  const Vector even_b = d4 - kA2 * d2, odd_b = d3 - kA2 * d1;
  d[0] = kA2 * kB2 * d0 + (d4 - (kA2 + kB2) * d2);
  d[Step] = even_a + kA * odd_a;
  d[2 * Step] = even_a - kA * odd_a;
  d[3 * Step] = even_b + kB * odd_b;
  d[4 * Step] = even_b - kB * odd_b;
  d[5 * Step] = kA2 * kB2 * d1 + (d5 - (kA2 + kB2) * d3);
}

// Three weights to their values at the points.
template <int Step, int ToStep>
inline void transform_kernel_line(const Vector* w, Vector* to) {
  const Vector w0 = w[0], w1 = w[Step], w2 = w[2 * Step];
  const Vector even_a = kAtA * w0 + (kAtA * kA2) * w2, odd_a = (kAtA * kA) * w1;
  const Vector even_b = kAtB * w0 + (kAtB * kB2) * w2, odd_b = (kAtB * kB) * w1;
  to[0] = kAt0 * w0;
  to[ToStep] = even_a + odd_a;
  to[2 * ToStep] = even_a - odd_a;
  to[3 * ToStep] = even_b + odd_b;
  to[4 * ToStep] = even_b - odd_b;
  to[5 * ToStep] = w2;
}

// Products at the points to four outputs.
template <int Step, int ToStep>
inline void transform_output_line(const Vector* m, Vector* to) {
  const Vector m1 = m[Step], m2 = m[2 * Step], m3 = m[3 * Step], m4 = m[4 * Step];
  const Vector even_a = m1 + m2, odd_a = m1 - m2, even_b = m3 + m4, odd_b = m3 - m4;
  to[0] = m[0] + even_a + even_b;
  to[ToStep] = kA * odd_a + kB * odd_b;
  to[2 * ToStep] = kA2 * even_a + kB2 * even_b;
  to[3 * ToStep] = (kA * kA2) * odd_a + ((kB * kB2) * odd_b + m[5 * Step]);
}

// For the kernel's gradient: four gradients of outputs to their values at the points.
template <int Step, int ToStep>
inline void transform_gradient_line(const Vector* g, Vector* to) {
  const Vector g0 = g[0], g1 = g[Step], g2 = g[2 * Step], g3 = g[3 * Step];
  const Vector even_a = kAtA * g0 + (kAtA * kA2) * g2;
  const Vector odd_a = (kAtA * kA) * g1 + (kAtA * kA * kA2) * g3;
  const Vector even_b = kAtB * g0 + (kAtB * kB2) * g2;
  const Vector odd_b = (kAtB * kB) * g1 + (kAtB * kB * kB2) * g3;
  to[0] = kAt0 * g0;
  to[ToStep] = even_a + odd_a;
  to[2 * ToStep] = even_a - odd_a;
  to[3 * ToStep] = even_b + odd_b;
  to[4 * ToStep] = even_b - odd_b;
  to[5 * ToStep] = g3;
}

// And the products to the gradients of three weights.
template <int Step, int ToStep>
inline void transform_weights_line(const Vector* m, Vector* to) {
  const Vector m1 = m[Step], m2 = m[2 * Step], m3 = m[3 * Step], m4 = m[4 * Step];
  const Vector even_a = m1 + m2, even_b = m3 + m4;
  to[0] = m[0] + even_a + even_b;
  to[ToStep] = kA * (m1 - m2) + kB * (m3 - m4);
  to[2 * ToStep] = kA2 * even_a + (kB2 * even_b + m[5 * Step]);
}

// A tile's image and its first pixel.
struct Place {
  int64_t image, row, column;
};

// The squares of 4x4 pixels that images [N, rows, columns] are cut into, one after the other; the
// last ones of a row and of a column may reach beyond the image.
struct Tiling {
  int64_t images, rows, columns;

  int64_t down() const { return (rows + kOutputs - 1) / kOutputs; }
  int64_t across() const { return (columns + kOutputs - 1) / kOutputs; }
  int64_t count() const { return images * down() * across(); }

  Place place(int64_t tile) const {
    // In 32 bits, as divisions are slow and there are many.
    const uint32_t in_line = across(), in_column = down(), number = tile;
    const uint32_t line = number / in_line, image = line / in_column;
    return {image, (line - image * in_column) * kOutputs, (number - line * in_line) * kOutputs};
  }

  // How many pixels lie before a tile's, were the four lines that it stands in cut into pieces.
  int64_t pixels_before(int64_t tile) const {
    if (tile >= count()) return images * rows * columns;
    const Place at = place(tile);
    return (at.image * rows + at.row) * columns +
           at.column * std::min<int64_t>(kOutputs, rows - at.row);
  }
};

// Images [N, height, width, channels] that squares are read from.
template <class Source>
struct Pixels {
  Source source;
  int64_t height, width, channels;

  // Reads Size x Size pixels of a block of channels, from (row, column) on, which may lie outside
  // the image; zeros there.
  template <int Size>
  void read(int64_t image, int64_t row, int64_t column, int64_t channel, Vector* to) const {
    const int64_t at = ((image * height + row) * width + column) * channels + channel;
    const bool inside = row >= 0 && column >= 0 && row + Size <= height && column + Size <= width;
    if (inside && channels - channel >= kBlock) {
      for (int i = 0; i < Size; ++i)
        for (int j = 0; j < Size; ++j)
          to[i * Size + j] = source.template read<true>(at + (i * width + j) * channels, channel);
      return;
    }
    for (int i = 0; i < Size; ++i) {
      for (int j = 0; j < Size; ++j) {
        const bool there =
            row + i >= 0 && row + i < height && column + j >= 0 && column + j < width;
        to[i * Size + j] =
            there ? source.template read<false>(at + (i * width + j) * channels, channel)
                  : Vector{};
      }
    }
  }

  // Asks for the pixels from `first` to before `end`, counted through all images.
  void prefetch(int64_t first, int64_t end) const {
    for (int64_t at = first * channels; at < end * channels; at += kLine) source.prefetch(at);
  }
};

// Spreads what is asked of memory ahead evenly over the steps of a computation: a processor drops
// some of what it is asked for all at once.
class Ahead {
 public:
  // The pixels of the tiles from `first` to before `end`.
  Ahead(const Tiling& tiling, int64_t first, int64_t end, int64_t steps)
      : first_(tiling.pixels_before(first)),
        asked_(first_),
        steps_(steps),
        count_(std::max<int64_t>(0, tiling.pixels_before(end) - first_)) {}

  // The next step: ask(first pixel, end) for its share.
  template <typename Ask>
  void step(const Ask& ask) {
    const int64_t until = first_ + count_ * ++done_ / steps_;
    ask(asked_, until);
    asked_ = until;
  }

 private:
  int64_t first_, asked_, steps_, count_, done_ = 0;
};

// A run of tiles, transformed: [point][block][room for tiles][kBlock]. Points stand `point` floats
// apart, which is no power of two, as lines that far apart would fall into one place of a cache.
struct Transformed {
  int64_t blocks, room;

  int64_t point() const { return (blocks * room + 1) * kBlock; }
  int64_t size() const { return kPoints * point(); }

  void put(const Vector* values, int64_t block, int64_t tile, float* to) const {
    float* target = to + (block * room + tile) * kBlock;
    for (int p = 0; p < kPoints; ++p) store(target + p * point(), values[p]);
  }
};

// Transforms the 6x6 inputs of `count` tiles from `first` on; the blocks from `first_block` on.
template <class Source>
void transform_inputs(const Tiling& tiling, int64_t first, int64_t count,
                      const Pixels<Source>& pixels, int64_t top, int64_t left, int64_t first_block,
                      const Transformed& layout, float* to) {
  for (int64_t t = 0; t < count; ++t) {
    const Place place = tiling.place(first + t);
    for (int64_t b = 0; b < layout.blocks; ++b) {
      Vector d[kPoints];
      pixels.template read<kTile>(place.image, place.row - top, place.column - left,
                                  (first_block + b) * kBlock, d);
      for (int i = 0; i < kTile; ++i) transform_input_line<1>(d + i * kTile);
      for (int i = 0; i < kTile; ++i) transform_input_line<kTile>(d + i);
      layout.put(d, b, t, to);
    }
  }
}

}  // namespace autogrow
