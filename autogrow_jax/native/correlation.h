// A convolution, or the gradient of its input, cut into tasks that any number of threads may take.

#pragma once

#include <utility>

#include "buffer.h"
#include "epilogue.h"
#include "kernels.h"

namespace autogrow {

// y[N, out_height, out_width, features] of x[N, height, width, channels].
struct Shape {
  int64_t images, height, width, channels;
  int64_t out_height, out_width, features;
  int64_t kernel_height, kernel_width;
  int64_t row_stride, column_stride;
  int64_t top, left;  // Zeros before the first row and column.
};

// What a task should copy at most, in floats: half of a common second-level cache.
constexpr int64_t kScratch = 64 * 1024;
// Tasks a call is cut into where it is large enough; fixed, so that sums are too.
constexpr int64_t kTasks = 16;

struct Tap {
  int64_t row, column;   // Of the input, relative to the output pixel's.
  int64_t kernel_index;  // row * kernel_width + column in the kernel.
};

// Those output pixels that read the input through the same taps.
struct Grid {
  int64_t first_row, first_column, rows, columns;
  std::vector<Tap> taps;
};

using TileFunction = void (*)(const float* const*, int64_t, const int64_t*, int64_t, int64_t,
                              const float*, const Outputs&);

// sum_tile for tiles of one row and of as many as fit, by columns - 1.
template <int Stride>
class Tiles {
 public:
  static TileFunction one_row(int64_t columns) { return table(kIndices)[columns - 1].first; }
  static TileFunction all_rows(int64_t columns) { return table(kIndices)[columns - 1].second; }

 private:
  using Pair = std::pair<TileFunction, TileFunction>;
  static constexpr auto kIndices = std::make_integer_sequence<int, kSums>{};
  template <int... I>
  static const Pair* table(std::integer_sequence<int, I...>) {
    static constexpr Pair kTable[] = {
        {sum_tile<1, I + 1, Stride>, sum_tile<kSums / (I + 1), I + 1, Stride>}...};
    return kTable;
  }
};

// Correlates `in` with taps of a kernel, each grid of output pixels with its own.
template <class Source>
class Correlation {
 public:
  // kernel_in and kernel_out: steps in the kernel from an input channel, and an output channel, to
  // the next. Output pixels of a grid stand `out_step` apart in both directions, input pixels
  // `row_stride` and `column_stride`.
  Correlation(Source in, int64_t images, int64_t height, int64_t width, int64_t channels,
              const float* kernel, int64_t kernel_in, int64_t kernel_out, float* out,
              int64_t out_height, int64_t out_width, int64_t features, int64_t row_stride,
              int64_t column_stride, int64_t out_row_step, int64_t out_column_step,
              std::vector<Grid> grids, Epilogue epilogue)
      : in_(in), images_(images), height_(height), width_(width), channels_(channels),
        kernel_(kernel), kernel_in_(kernel_in), kernel_out_(kernel_out), out_(out),
        out_height_(out_height), out_width_(out_width), features_(features),
        row_stride_(row_stride), column_stride_(column_stride), out_row_step_(out_row_step),
        out_column_step_(out_column_step), grids_(std::move(grids)), epilogue_(epilogue) {
    bool first = true;
    int64_t num_taps = 0;
    for (const Grid& grid : grids_) {
      rows_ = std::max(rows_, grid.rows);
      columns_ = std::max(columns_, grid.columns);
      for (const Tap& tap : grid.taps) {
        top_ = first ? tap.row : std::min(top_, tap.row);
        left_ = first ? tap.column : std::min(left_, tap.column);
        bottom_ = first ? tap.row : std::max(bottom_, tap.row);
        right_ = first ? tap.column : std::max(right_, tap.column);
        first = false;
      }
      num_taps += grid.taps.size();
    }
    tap_block_ = num_taps * kBlock * kBlock;
    weights_ = call_buffer().reserve(blocks_of(features_) * blocks_of(channels_) * tap_block_);

    const int64_t row = window(1, 1).size() / std::max<int64_t>(1, bottom_ - top_ + 1);
    const int64_t halo = bottom_ - top_ + 1 - row_stride_;
    const int64_t fitting = (kScratch / std::max<int64_t>(row, 1) - halo) / row_stride_;
    band_ = std::clamp<int64_t>(fitting, std::min<int64_t>(rows_, 4), std::max<int64_t>(rows_, 1));
    if (images_ * bands() < kTasks) {
      const int64_t wanted = (kTasks + images_ - 1) / std::max<int64_t>(images_, 1);
      band_ = std::max<int64_t>(1, std::min(band_, (rows_ + wanted - 1) / wanted));
    }
    group_ = 1;
    if (band_ >= rows_) {
      const int64_t image = std::max<int64_t>(1, window(1, rows_).size());
      const int64_t most = std::max<int64_t>(1, images_ / kTasks);
      group_ = std::clamp<int64_t>(kScratch / image, 1, most);
    }
  }

  // Where the moments of the outputs go, a `Spread` for each task, zeros now.
  void keep_moments(double* moments) { epilogue_.moments = moments; }

  // Tasks of the first phase: each packs the weights of a block of features.
  int64_t num_packs() const { return blocks_of(features_); }

  void pack(int64_t feature_block) const {
    float* to = weights_ + feature_block * blocks_of(channels_) * tap_block_;
    const int64_t features = std::min<int64_t>(kBlock, features_ - feature_block * kBlock);
    const float* from = kernel_ + feature_block * kBlock * kernel_out_;
    for (const Grid& grid : grids_) {
      for (int64_t b = 0; b < blocks_of(channels_); ++b) {
        const int64_t channels = std::min<int64_t>(kBlock, channels_ - b * kBlock);
        for (const Tap& tap : grid.taps) {
          const float* source =
              from + tap.kernel_index * channels_ * features_ + b * kBlock * kernel_in_;
          for (int64_t c = 0; c < channels; ++c)
            for (int64_t f = 0; f < kBlock; ++f)
              to[c * kBlock + f] =
                  f < features ? source[c * kernel_in_ + f * kernel_out_] : 0.0f;
          to += kBlock * kBlock;
        }
      }
    }
  }

  // Tasks of the second phase: each writes a band of rows of some images.
  int64_t num_tasks() const { return (images_ + group_ - 1) / group_ * bands(); }

  void run(int64_t task) const {
    const int64_t image = task / bands() * group_, row = task % bands() * band_;
    const int64_t images = std::min(group_, images_ - image);
    const int64_t rows = std::min(band_, rows_ - row);
    const Window part = window(images, rows);
    float* scratch = task_buffer().reserve(part.size());
    part.fill(scratch, in_, height_, width_, channels_, image, row * row_stride_ + top_, left_);
    for (int64_t f = 0; f < blocks_of(features_); ++f) {
      const float* weights = weights_ + f * blocks_of(channels_) * tap_block_;
      for (const Grid& grid : grids_) {
        write_grid(grid, part, scratch, weights, f * kBlock, image, row,
                   std::min(rows, grid.rows - row));
        weights += blocks_of(channels_) * grid.taps.size() * kBlock * kBlock;
      }
    }
    if (epilogue_.moments == nullptr) return;
    for (const Grid& grid : grids_)
      add_moments(task, grid, image, images, row, std::min(rows, grid.rows - row));
  }

 private:
  int64_t bands() const { return band_ > 0 ? (rows_ + band_ - 1) / band_ : 0; }

  Window window(int64_t images, int64_t rows) const {
    return {images, (rows - 1) * row_stride_ + bottom_ - top_ + 1,
            (columns_ - 1) * column_stride_ + right_ - left_ + 1, blocks_of(channels_)};
  }

  void write_grid(const Grid& grid, const Window& part, const float* scratch, const float* weights,
                  int64_t feature, int64_t image, int64_t row, int64_t rows) const {
    if (rows <= 0 || grid.columns <= 0) return;
    std::vector<int64_t> taps;
    for (const Tap& tap : grid.taps)
      taps.push_back((tap.row - top_) * part.row_size() + (tap.column - left_) * kBlock);
    // As few tiles as will do, equally wide; the last ones overlap those before.
    const int64_t across = (grid.columns + kSums - 1) / kSums;
    const int64_t width = (grid.columns + across - 1) / across;
    const int64_t lines = part.images * rows;
    const int64_t most = kSums / width;
    const int64_t height = lines >= most ? most : 1;
    const bool narrow = column_stride_ == 1;
    TileFunction tile;
    if (height == 1)
      tile = narrow ? Tiles<1>::one_row(width) : Tiles<2>::one_row(width);
    else
      tile = narrow ? Tiles<1>::all_rows(width) : Tiles<2>::all_rows(width);
    const float* from[kSums];
    float* to[kSums];
    Outputs outputs{to, out_column_step_ * features_, features_ - feature};
    if (!epilogue_.is_trivial()) {
      outputs.epilogue = &epilogue_;
      outputs.images = out_;
      outputs.feature = feature;
    }
    for (int64_t line = 0; line < lines; line += height) {
      const int64_t first = std::min(line, lines - height);
      for (int64_t column = 0; column < grid.columns; column += width) {
        const int64_t begin = std::min(column, grid.columns - width);
        for (int64_t r = 0; r < height; ++r) {
          const int64_t i = (first + r) / rows, y = (first + r) % rows;
          from[r] = scratch + (i * part.rows + y * row_stride_) * part.row_size() +
                    begin * column_stride_ * kBlock;
          to[r] = out_ +
                  (((image + i) * out_height_ + grid.first_row + (row + y) * out_row_step_) *
                       out_width_ + grid.first_column) * features_ +
                  begin * outputs.step + feature;
        }
        tile(from, part.block_size(), taps.data(), taps.size(), channels_, weights, outputs);
      }
    }
  }

  // Of the outputs of a task, which its core's cache still holds; not as they are computed, since
  // tiles overlap.
  void add_moments(int64_t task, const Grid& grid, int64_t image, int64_t images, int64_t row,
                   int64_t rows) const {
    const int64_t step = out_column_step_ * features_;
    for (int64_t f = 0; f < features_; f += kBlock) {
      // Two, as each addition waits for the one before it.
      Moments even, odd;
      for (int64_t line = 0; line < images * rows; ++line) {
        const int64_t y = grid.first_row + (row + line % rows) * out_row_step_;
        const float* from = out_ + (((image + line / rows) * out_height_ + y) * out_width_ +
                                    grid.first_column) * features_ + f;
        for (int64_t i = 0; i < grid.columns; ++i, from += step)
          (i % 2 == 0 ? even : odd).add(load_some(from, features_ - f));
      }
      epilogue_.spread(task, features_).add(f, even);
      epilogue_.spread(task, features_).add(f, odd);
    }
  }

  Source in_;
  int64_t images_, height_, width_, channels_;
  const float* kernel_;
  int64_t kernel_in_, kernel_out_;
  float* out_;
  int64_t out_height_, out_width_, features_;
  int64_t row_stride_, column_stride_, out_row_step_, out_column_step_;
  std::vector<Grid> grids_;
  Epilogue epilogue_;
  int64_t rows_ = 0, columns_ = 0;                        // Of the largest grid.
  int64_t top_ = 0, left_ = 0, bottom_ = 0, right_ = 0;   // Extent of the taps.
  int64_t band_ = 1, group_ = 1;                          // Rows and images of a task.
  int64_t tap_block_;
  float* weights_;  // [feature block][grid][channel block][tap][kBlock][kBlock]
};

template <class Source>
Correlation<Source> forward(const Shape& s, Source x, const float* kernel, float* y,
                            Epilogue epilogue = {}) {
  Grid grid{0, 0, s.out_height, s.out_width, {}};
  for (int64_t i = 0; i < s.kernel_height; ++i)
    for (int64_t j = 0; j < s.kernel_width; ++j)
      grid.taps.push_back({i - s.top, j - s.left, i * s.kernel_width + j});
  return {x, s.images, s.height, s.width, s.channels, kernel, s.features, 1, y, s.out_height,
          s.out_width, s.features, s.row_stride, s.column_stride, 1, 1, {grid}, epilogue};
}

// Input pixel p takes part in output o through tap k where p + top = o * stride + k. So the pixels
// of one remainder modulo the stride read the output through the same taps.
template <class Source>
Correlation<Source> input_gradient(const Shape& s, Source g, const float* kernel, float* grad_x,
                                   Epilogue epilogue = {}) {
  std::vector<Grid> grids;
  for (int64_t row = 0; row < std::min(s.row_stride, s.height); ++row) {
    for (int64_t column = 0; column < std::min(s.column_stride, s.width); ++column) {
      Grid grid{row, column, (s.height - row + s.row_stride - 1) / s.row_stride,
                (s.width - column + s.column_stride - 1) / s.column_stride, {}};
      for (int64_t i = 0; i < s.kernel_height; ++i)
        for (int64_t j = 0; j < s.kernel_width; ++j)
          if ((row + s.top - i) % s.row_stride == 0 && (column + s.left - j) % s.column_stride == 0)
            grid.taps.push_back({(row + s.top - i) / s.row_stride,
                                 (column + s.left - j) / s.column_stride, i * s.kernel_width + j});
      grids.push_back(std::move(grid));
    }
  }
  return {g, s.images, s.out_height, s.out_width, s.features, kernel, 1, s.features, grad_x,
          s.height, s.width, s.channels, 1, 1, s.row_stride, s.column_stride, std::move(grids),
          epilogue};
}

}  // namespace autogrow
