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

// What is read, the kernel it is multiplied with, where the sums go and what becomes of them.
template <class Source>
struct Operation {
  int64_t images;
  Source in;
  int64_t height, width, channels;
  const float* kernel;
  int64_t kernel_in, kernel_out;  // Steps in it from an input, an output channel to the next.
  float* out;
  int64_t out_height, out_width, features;
  Epilogue epilogue;
};

// From a pixel of the input, and of the output, to the next of its grid.
struct Steps {
  int64_t row = 1, column = 1, out_row = 1, out_column = 1;
};

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
  Correlation(Operation<Source> operation, Steps steps, std::vector<Grid> grids)
      : op_(operation), steps_(steps), grids_(std::move(grids)) {
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
    weights_ =
        call_buffer().reserve(blocks_of(op_.features) * blocks_of(op_.channels) * tap_block_);

    const int64_t row = window(1, 1).size() / std::max<int64_t>(1, bottom_ - top_ + 1);
    const int64_t halo = bottom_ - top_ + 1 - steps_.row;
    const int64_t fitting = (kScratch / std::max<int64_t>(row, 1) - halo) / steps_.row;
    band_ = std::clamp<int64_t>(fitting, std::min<int64_t>(rows_, 4), std::max<int64_t>(rows_, 1));
    if (op_.images * bands() < kTasks) {
      const int64_t wanted = (kTasks + op_.images - 1) / std::max<int64_t>(op_.images, 1);
      band_ = std::max<int64_t>(1, std::min(band_, (rows_ + wanted - 1) / wanted));
    }
    group_ = 1;
    if (band_ >= rows_) {
      const int64_t image = std::max<int64_t>(1, window(1, rows_).size());
      const int64_t most = std::max<int64_t>(1, op_.images / kTasks);
      group_ = std::clamp<int64_t>(kScratch / image, 1, most);
    }
  }

  // Where the moments of the outputs go, a `Spread` for each task, zeros now.
  void keep_moments(double* moments) { op_.epilogue.moments = moments; }

  // Tasks of the first phase: each packs the weights of a block of features.
  int64_t num_packs() const { return blocks_of(op_.features); }

  void pack(int64_t feature_block) const {
    float* to = weights_ + feature_block * blocks_of(op_.channels) * tap_block_;
    const int64_t features = std::min<int64_t>(kBlock, op_.features - feature_block * kBlock);
    const float* from = op_.kernel + feature_block * kBlock * op_.kernel_out;
    for (const Grid& grid : grids_) {
      for (int64_t b = 0; b < blocks_of(op_.channels); ++b) {
        const int64_t channels = std::min<int64_t>(kBlock, op_.channels - b * kBlock);
        for (const Tap& tap : grid.taps) {
          const float* source =
              from + tap.kernel_index * op_.channels * op_.features + b * kBlock * op_.kernel_in;
          for (int64_t c = 0; c < channels; ++c)
            for (int64_t f = 0; f < kBlock; ++f)
              to[c * kBlock + f] =
                  f < features ? source[c * op_.kernel_in + f * op_.kernel_out] : 0.0f;
          to += kBlock * kBlock;
        }
      }
    }
  }

  // Tasks of the second phase: each writes a band of rows of some images.
  int64_t num_tasks() const { return (op_.images + group_ - 1) / group_ * bands(); }

  void run(int64_t task) const {
    const int64_t image = task / bands() * group_, row = task % bands() * band_;
    const int64_t images = std::min(group_, op_.images - image);
    const int64_t rows = std::min(band_, rows_ - row);
    const Window part = window(images, rows);
    float* scratch = task_buffer().reserve(part.size());
    part.fill(scratch, op_.in, op_.height, op_.width, op_.channels, image, row * steps_.row + top_,
              left_);
    for (int64_t f = 0; f < blocks_of(op_.features); ++f) {
      const float* weights = weights_ + f * blocks_of(op_.channels) * tap_block_;
      for (const Grid& grid : grids_) {
        write_grid(grid, part, scratch, weights, f * kBlock, image, row,
                   std::min(rows, grid.rows - row));
        weights += blocks_of(op_.channels) * grid.taps.size() * kBlock * kBlock;
      }
    }
    if (op_.epilogue.moments == nullptr) return;
    for (const Grid& grid : grids_)
      add_moments(task, grid, image, images, row, std::min(rows, grid.rows - row));
  }

 private:
  int64_t bands() const { return band_ > 0 ? (rows_ + band_ - 1) / band_ : 0; }

  Window window(int64_t images, int64_t rows) const {
    return {images, (rows - 1) * steps_.row + bottom_ - top_ + 1,
            (columns_ - 1) * steps_.column + right_ - left_ + 1, blocks_of(op_.channels)};
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
    const bool narrow = steps_.column == 1;
    TileFunction tile;
    if (height == 1)
      tile = narrow ? Tiles<1>::one_row(width) : Tiles<2>::one_row(width);
    else
      tile = narrow ? Tiles<1>::all_rows(width) : Tiles<2>::all_rows(width);
    const float* from[kSums];
    float* to[kSums];
    Outputs outputs{to, steps_.out_column * op_.features, op_.features - feature};
    if (!op_.epilogue.is_trivial()) {
      outputs.epilogue = &op_.epilogue;
      outputs.images = op_.out;
      outputs.feature = feature;
    }
    for (int64_t line = 0; line < lines; line += height) {
      const int64_t first = std::min(line, lines - height);
      for (int64_t column = 0; column < grid.columns; column += width) {
        const int64_t begin = std::min(column, grid.columns - width);
        for (int64_t r = 0; r < height; ++r) {
          const int64_t i = (first + r) / rows, y = (first + r) % rows;
          from[r] = scratch + (i * part.rows + y * steps_.row) * part.row_size() +
                    begin * steps_.column * kBlock;
          to[r] = op_.out +
                  (((image + i) * op_.out_height + grid.first_row + (row + y) * steps_.out_row) *
                       op_.out_width +
                   grid.first_column) *
                      op_.features +
                  begin * outputs.step + feature;
        }
        tile(from, part.block_size(), taps.data(), taps.size(), op_.channels, weights, outputs);
      }
    }
  }

  // Of the outputs of a task, which its core's cache still holds; not as they are computed, since
  // tiles overlap.
  void add_moments(int64_t task, const Grid& grid, int64_t image, int64_t images, int64_t row,
                   int64_t rows) const {
    const int64_t step = steps_.out_column * op_.features;
    for (int64_t f = 0; f < op_.features; f += kBlock) {
      // Two, as each addition waits for the one before it.
      Moments even, odd;
      for (int64_t line = 0; line < images * rows; ++line) {
        const int64_t y = grid.first_row + (row + line % rows) * steps_.out_row;
        const float* from =
            op_.out +
            (((image + line / rows) * op_.out_height + y) * op_.out_width + grid.first_column) *
                op_.features +
            f;
        for (int64_t i = 0; i < grid.columns; ++i, from += step)
          (i % 2 == 0 ? even : odd).add(load_some(from, op_.features - f));
      }
      op_.epilogue.spread(task, op_.features).add(f, even);
      op_.epilogue.spread(task, op_.features).add(f, odd);
    }
  }

  Operation<Source> op_;
  Steps steps_;
  std::vector<Grid> grids_;
  int64_t rows_ = 0, columns_ = 0;                       // Of the largest grid.
  int64_t top_ = 0, left_ = 0, bottom_ = 0, right_ = 0;  // Extent of the taps.
  int64_t band_ = 1, group_ = 1;                         // Rows and images of a task.
  int64_t tap_block_;
  float* weights_;  // [feature block][grid][channel block][tap][kBlock][kBlock]
};

// y, or what the epilogue makes of it, of x.
template <class Source>
Operation<Source> forward_operation(const Shape& s, Source x, const float* kernel, float* y,
                                    const Epilogue& epilogue) {
  return {s.images, x, s.height,     s.width,     s.channels, kernel,  s.features,
          1,        y, s.out_height, s.out_width, s.features, epilogue};
}

// The gradient of x, of that of y.
template <class Source>
Operation<Source> input_operation(const Shape& s, Source g, const float* kernel, float* grad_x,
                                  const Epilogue& epilogue) {
  return {s.images,   g,      s.out_height, s.out_width, s.features, kernel,  1,
          s.features, grad_x, s.height,     s.width,     s.channels, epilogue};
}

template <class Source>
Correlation<Source> forward(const Shape& s, const Operation<Source>& operation) {
  Grid grid{0, 0, s.out_height, s.out_width, {}};
  for (int64_t i = 0; i < s.kernel_height; ++i)
    for (int64_t j = 0; j < s.kernel_width; ++j)
      grid.taps.push_back({i - s.top, j - s.left, i * s.kernel_width + j});
  return {operation, {s.row_stride, s.column_stride, 1, 1}, {grid}};
}

// Input pixel p takes part in output o through tap k where p + top = o * stride + k. So the pixels
// of one remainder modulo the stride read the output through the same taps.
template <class Source>
Correlation<Source> input_gradient(const Shape& s, const Operation<Source>& operation) {
  std::vector<Grid> grids;
  for (int64_t row = 0; row < std::min(s.row_stride, s.height); ++row) {
    for (int64_t column = 0; column < std::min(s.column_stride, s.width); ++column) {
      Grid grid{row,
                column,
                (s.height - row + s.row_stride - 1) / s.row_stride,
                (s.width - column + s.column_stride - 1) / s.column_stride,
                {}};
      for (int64_t i = 0; i < s.kernel_height; ++i)
        for (int64_t j = 0; j < s.kernel_width; ++j)
          if ((row + s.top - i) % s.row_stride == 0 && (column + s.left - j) % s.column_stride == 0)
            grid.taps.push_back({(row + s.top - i) / s.row_stride,
                                 (column + s.left - j) / s.column_stride, i * s.kernel_width + j});
      grids.push_back(std::move(grid));
    }
  }
  return {operation, {1, 1, s.row_stride, s.column_stride}, std::move(grids)};
}

}  // namespace autogrow
