// The gradient of a 3x3 kernel of stride 1 by F(3x3, 4x4).

#pragma once

#include "buffer.h"
#include "kernels.h"
#include "winograd.h"

namespace autogrow {

// Sums over chunks of the tiles, then their sum: how many chunks depends on the shapes alone.
template <class X, class G>
class WinogradGradient {
 public:
  // x: images that the convolution reads, with `top` and `left` zeros before the first row and
  // column. g: the gradient of its output. out: [3, 3, channels, features].
  WinogradGradient(Pixels<X> x, Pixels<G> g, int64_t images, int64_t top, int64_t left, float* out)
      : x_(x),
        g_(g),
        top_(top),
        left_(left),
        out_(out),
        tiling_{images, g.height, g.width},
        in_blocks_(blocks_of(x.channels)),
        out_blocks_(blocks_of(g.channels)),
        in_groups_((in_blocks_ + kMostBlocks - 1) / kMostBlocks),
        out_groups_((out_blocks_ + kMostBlocks - 1) / kMostBlocks) {
    const int64_t size = in_blocks_ * out_blocks_ * kWeights;
    const int64_t wanted = (kTasks + in_groups_ * out_groups_ - 1) / (in_groups_ * out_groups_);
    chunks_ = std::clamp<int64_t>(std::min(wanted, kMostSums / size), 1,
                                  std::max<int64_t>(1, tiling_.count() / kGradientGroup));
    sums_ = call_buffer().reserve(chunks_ * size);
  }

  int64_t num_tasks() const { return chunks_ * in_groups_ * out_groups_; }

  void run(int64_t task) const {
    const int64_t chunk = task / (in_groups_ * out_groups_);
    const int64_t in_group = task / out_groups_ % in_groups_, out_group = task % out_groups_;
    const int64_t in_block = in_blocks_ * in_group / in_groups_;
    const int64_t out_block = out_blocks_ * out_group / out_groups_;
    const Transformed x{in_blocks_ * (in_group + 1) / in_groups_ - in_block, kGradientGroup};
    const Transformed g{out_blocks_ * (out_group + 1) / out_groups_ - out_block, kGradientGroup};
    const int64_t size = x.blocks * g.blocks * kPoints * kSquare;
    float* sums = task_buffer().reserve(size + x.size() + g.size());
    float *x_scratch = sums + size, *g_scratch = x_scratch + x.size();
    std::fill(sums, sums + size, 0.0f);
    const int64_t first = tiling_.count() * chunk / chunks_;
    const int64_t end = tiling_.count() * (chunk + 1) / chunks_;
    for (int64_t tile = first; tile < end; tile += kGradientGroup) {
      const int64_t count = std::min<int64_t>(kGradientGroup, end - tile);
      transform_inputs(tiling_, tile, count, x_, top_, left_, in_block, x, x_scratch);
      transform_gradients(tile, count, out_block, g, g_scratch);
      add_group(x, x_scratch, g, g_scratch, count, tile + kGradientGroup, end, sums);
    }
    for (int64_t f = 0; f < g.blocks; ++f)
      for (int64_t b = 0; b < x.blocks; ++b)
        write(
            sums + (f * x.blocks + b) * kPoints * kSquare,
            sums_ + ((chunk * out_blocks_ + out_block + f) * in_blocks_ + in_block + b) * kWeights);
  }

  // Tasks of the second phase: each adds the chunks up for a block of channels.
  int64_t num_reductions() const { return in_blocks_; }

  void reduce(int64_t in_block) const {
    const int64_t channels = std::min<int64_t>(kBlock, x_.channels - in_block * kBlock);
    const int64_t chunk_size = in_blocks_ * out_blocks_ * kWeights;
    for (int64_t tap = 0; tap < 9; ++tap) {
      for (int64_t c = 0; c < channels; ++c) {
        float* to = out_ + (tap * x_.channels + in_block * kBlock + c) * g_.channels;
        for (int64_t f = 0; f < out_blocks_; ++f) {
          const float* from =
              sums_ + (f * in_blocks_ + in_block) * kWeights + (tap * kBlock + c) * kBlock;
          Vector sum = load(from);
          for (int64_t chunk = 1; chunk < chunks_; ++chunk) sum += load(from + chunk * chunk_size);
          store_some(to + f * kBlock, sum, g_.channels - f * kBlock);
        }
      }
    }
  }

 private:
  static constexpr int64_t kSquare = kBlock * kBlock, kWeights = 9 * kSquare;

  void transform_gradients(int64_t first, int64_t count, int64_t first_block,
                           const Transformed& layout, float* to) const {
    for (int64_t t = 0; t < count; ++t) {
      const Place place = tiling_.place(first + t);
      for (int64_t b = 0; b < layout.blocks; ++b) {
        Vector g[kOutputs * kOutputs], lines[kOutputs * kTile], values[kPoints];
        g_.template read<kOutputs>(place.image, place.row, place.column, (first_block + b) * kBlock,
                                   g);
        for (int i = 0; i < kOutputs; ++i)
          transform_gradient_line<1, 1>(g + i * kOutputs, lines + i * kTile);
        for (int i = 0; i < kTile; ++i)
          transform_gradient_line<kTile, kTile>(lines + i, values + i);
        layout.put(values, b, t, to);
      }
    }
  }

  // sums: [feature block][channel block][point][channel][feature].
  void add_group(const Transformed& x, const float* x_scratch, const Transformed& g,
                 const float* g_scratch, int64_t count, int64_t next, int64_t end,
                 float* sums) const {
    Ahead reads(tiling_, next, std::min(next + kGradientGroup, end), x.blocks * g.blocks * kPoints);
    for (int64_t f = 0; f < g.blocks; ++f) {
      for (int64_t b = 0; b < x.blocks; ++b) {
        for (int p = 0; p < kPoints; ++p, sums += kSquare) {
          // The next group's images come from memory meanwhile.
          reads.step([&](int64_t from, int64_t until) {
            x_.prefetch(from, until);
            g_.prefetch(from, until);
          });
          add_products<1, kBlock, 1>(x_scratch + p * x.point() + b * kGradientGroup * kBlock, 0,
                                     g_scratch + p * g.point() + f * kGradientGroup * kBlock,
                                     kBlock, 0, 1, count, sums);
        }
      }
    }
  }

  static void write(const float* sums, float* to) {
    for (int64_t c = 0; c < kBlock; ++c) {
      Vector m[kPoints], lines[3 * kTile], w[9];
      for (int p = 0; p < kPoints; ++p) m[p] = load(sums + p * kSquare + c * kBlock);
      for (int i = 0; i < kTile; ++i) transform_weights_line<kTile, kTile>(m + i, lines + i);
      for (int i = 0; i < 3; ++i) transform_weights_line<1, 1>(lines + i * kTile, w + i * 3);
      for (int i = 0; i < 9; ++i) store(to + (i * kBlock + c) * kBlock, w[i]);
    }
  }

  Pixels<X> x_;
  Pixels<G> g_;
  int64_t top_, left_;
  float* out_;
  Tiling tiling_;
  int64_t in_blocks_, out_blocks_;
  int64_t in_groups_, out_groups_, chunks_;
  float* sums_;  // [chunk][feature block][channel block][tap][kBlock][kBlock]
};

}  // namespace autogrow
