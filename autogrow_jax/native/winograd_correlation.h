// A 3x3 convolution of stride 1, or the gradient of its input, by F(4x4, 3x3).

#pragma once

#include "correlation.h"
#include "winograd.h"

namespace autogrow {

template <class Source>
class WinogradCorrelation {
 public:
  // Flipped: the last tap comes first. top, left: zeros before the first row and column.
  WinogradCorrelation(const Operation<Source>& operation, bool flipped, int64_t top, int64_t left)
      : op_(operation),
        in_{op_.in, op_.height, op_.width, op_.channels},
        flipped_(flipped),
        top_(top),
        left_(left),
        tiling_{op_.images, op_.out_height, op_.out_width},
        in_blocks_(blocks_of(op_.channels)),
        out_blocks_(blocks_of(op_.features)) {
    weights_ = call_buffer().reserve(out_blocks_ * kPoints * in_blocks_ * kBlock * kBlock);
    const int64_t tile = kPoints * (in_blocks_ + 1) * kBlock, tiles = tiling_.count();
    group_ = std::clamp<int64_t>(kTransformed / tile / kSums, 1, 2) * kSums;
    const int64_t groups = (tiles + group_ - 1) / group_;
    groups_ = std::max<int64_t>(1, groups / kTasks);
    // Where groups are few, threads share the features of one, and each transforms the inputs.
    splits_ = std::clamp<int64_t>(kTasks / std::max<int64_t>(groups, 1), 1, out_blocks_);
  }

  // Where the moments of the outputs go, a `Spread` for each task, zeros now.
  void keep_moments(double* moments) { op_.epilogue.moments = moments; }

  // Tasks of the first phase: each packs the weights of a block of features.
  int64_t num_packs() const { return out_blocks_; }

  void pack(int64_t f) const {
    float* to = weights_ + f * kPoints * in_blocks_ * kBlock * kBlock;
    const int64_t features = std::min<int64_t>(kBlock, op_.features - f * kBlock);
    const int64_t taps = in_.channels * op_.features;
    for (int64_t c = 0; c < in_.channels; ++c) {
      const float* from = op_.kernel + f * kBlock * op_.kernel_out + c * op_.kernel_in;
      Vector w[9], lines[3 * kTile], u[kPoints];
      for (int i = 0; i < 9; ++i) {
        const float* source = from + (flipped_ ? 8 - i : i) * taps;
        w[i] = Vector{};
        for (int64_t k = 0; k < features; ++k) w[i][k] = source[k * op_.kernel_out];
      }
      for (int i = 0; i < 3; ++i) transform_kernel_line<1, 1>(w + i * 3, lines + i * kTile);
      for (int i = 0; i < kTile; ++i) transform_kernel_line<kTile, kTile>(lines + i, u + i);
      for (int p = 0; p < kPoints; ++p) store(to + (p * in_blocks_ * kBlock + c) * kBlock, u[p]);
    }
  }

  // Tasks of the second phase: each writes some groups of tiles, or some of their features.
  int64_t num_tasks() const {
    const int64_t tiles = groups_ * group_;
    return (tiling_.count() + tiles - 1) / tiles * splits_;
  }

  void run(int64_t task) const {
    const int64_t tiles = groups_ * group_, first = task / splits_ * tiles;
    const int64_t end = std::min(first + tiles, tiling_.count());
    for (int64_t tile = first; tile < end; tile += group_) run_group(task, tile, end);
  }

 private:
  void run_group(int64_t task, int64_t first, int64_t end) const {
    const int64_t count = std::min(group_, end - first);
    const Transformed inputs{in_blocks_, group_}, outputs{1, group_};
    float* scratch = task_buffer().reserve(inputs.size() + outputs.size());
    float* products = scratch + inputs.size();
    transform_inputs(tiling_, first, count, in_, top_, left_, 0, inputs, scratch);
    const int64_t split = task % splits_;
    const int64_t first_block = out_blocks_ * split / splits_;
    const int64_t end_block = out_blocks_ * (split + 1) / splits_;
    const int64_t steps = kPoints * ((count + kSums - 1) / kSums);
    const int64_t next = first + group_;
    Ahead reads(tiling_, next, std::min(next + group_, end), steps * (end_block - first_block));
    for (int64_t f = first_block; f < end_block; ++f) {
      const float* weights = weights_ + f * kPoints * in_blocks_ * kBlock * kBlock;
      // What is read and written next comes from memory while the products are computed.
      Ahead writes(tiling_, first, first + count, steps);
      for (int p = 0; p < kPoints; ++p, weights += in_blocks_ * kBlock * kBlock) {
        for (int64_t t = 0; t < count; t += kSums) {
          reads.step([&](int64_t from, int64_t until) { in_.prefetch(from, until); });
          writes.step([&](int64_t from, int64_t until) {
            for (; from < until; ++from)
              prefetch_to_write(op_.out + from * op_.features + f * kBlock);
          });
          const int64_t none = 0;
          const float* from = scratch + p * inputs.point() + t * kBlock;
          float* to = products + p * outputs.point() + t * kBlock;
          sum_tile<1, kSums, 1>(&from, group_ * kBlock, &none, 1, in_.channels, weights,
                                {&to, kBlock, kBlock});
        }
      }
      write_group(task, first, count, products, outputs.point(), f);
    }
  }

  void write_group(int64_t task, int64_t first, int64_t count, const float* products, int64_t step,
                   int64_t f) const {
    Moments moments;
    for (int64_t t = 0; t < count; ++t) {
      Vector y[kOutputs * kOutputs];
      transform_outputs(products + t * kBlock, step, y);
      const Place place = tiling_.place(first + t);
      const int64_t rows = std::min<int64_t>(kOutputs, tiling_.rows - place.row);
      const int64_t columns = std::min<int64_t>(kOutputs, tiling_.columns - place.column);
      if (op_.epilogue.moments != nullptr) {
        for (int64_t i = 0; i < rows; ++i)
          for (int64_t j = 0; j < columns; ++j) moments.add(y[i * kOutputs + j]);
      }
      write(place, rows, columns, f * kBlock, y);
    }
    if (op_.epilogue.moments != nullptr)
      op_.epilogue.spread(task, op_.features).add(f * kBlock, moments);
  }

  static void transform_outputs(const float* products, int64_t step, Vector* y) {
    Vector m[kPoints], lines[kOutputs * kTile];
    for (int p = 0; p < kPoints; ++p) m[p] = load(products + p * step);
    for (int i = 0; i < kTile; ++i) transform_output_line<kTile, kTile>(m + i, lines + i);
    for (int i = 0; i < kOutputs; ++i)
      transform_output_line<1, 1>(lines + i * kTile, y + i * kOutputs);
  }

  void write(const Place& place, int64_t rows, int64_t columns, int64_t feature,
             const Vector* y) const {
    const int64_t line = tiling_.columns * op_.features, count = op_.features - feature;
    const int64_t at =
        ((place.image * tiling_.rows + place.row) * tiling_.columns + place.column) * op_.features +
        feature;
    if (op_.epilogue.is_trivial() && rows == kOutputs && columns == kOutputs && count >= kBlock) {
      for (int i = 0; i < kOutputs; ++i)
        for (int j = 0; j < kOutputs; ++j)
          store(op_.out + at + i * line + j * op_.features, y[i * kOutputs + j]);
      return;
    }
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < columns; ++j) {
        const int64_t pixel = at + i * line + j * op_.features;
        const Vector value = op_.epilogue.apply(y[i * kOutputs + j], pixel, feature, count);
        store_some(op_.out + pixel, value, count);
      }
    }
  }

  Operation<Source> op_;
  Pixels<Source> in_;
  bool flipped_;
  int64_t top_, left_;
  Tiling tiling_;
  int64_t in_blocks_, out_blocks_;
  int64_t group_, groups_, splits_;  // Tiles of a group, groups of a task, tasks that share it.
  float* weights_;                   // [feature block][point][channel block][kBlock][kBlock]
};

}  // namespace autogrow
