// The gradient of a convolution's kernel: x^T g over all images and output pixels.

#pragma once

#include <type_traits>

#include "correlation.h"

namespace autogrow {

// Sums of chunks of the batch, then their sum: how many chunks depends on the shapes alone.
template <class X, class G>
class KernelGradient {
 public:
  KernelGradient(const Shape& shape, X x, G g, float* out)
      : s_(shape),
        x_(x),
        g_(g),
        out_(out),
        in_blocks_(blocks_of(shape.channels)),
        out_blocks_(blocks_of(shape.features)) {
    const int64_t taps = s_.kernel_height * s_.kernel_width;
    pair_ = taps * kBlock * kBlock;
    chunk_size_ = in_blocks_ * out_blocks_ * pair_;
    chunks_ =
        std::clamp<int64_t>(kMostSums / chunk_size_, 1, std::clamp<int64_t>(s_.images, 1, kTasks));
    // Where chunks are few, threads share the features of one, and each copies x.
    groups_ = std::min(out_blocks_, (kTasks / 2 + chunks_ - 1) / chunks_);
    sums_ = call_buffer().reserve(chunks_ * chunk_size_);

    const Window image = window(1, s_.out_height);
    const int64_t line = image.row_size() * image.blocks * s_.row_stride;
    band_ = std::clamp<int64_t>(kScratch / 2 / std::max<int64_t>(line, 1), 1, s_.out_height);
    images_ = band_ < s_.out_height
                  ? 1
                  : std::clamp<int64_t>(kScratch / std::max<int64_t>(image.size(), 1), 1,
                                        std::max<int64_t>(s_.images / chunks_, 1));
  }

  int64_t num_tasks() const { return chunks_ * groups_; }

  void run(int64_t task) const {
    const int64_t chunk = task / groups_, group = task % groups_;
    const int64_t first = s_.images * chunk / chunks_, end = s_.images * (chunk + 1) / chunks_;
    const int64_t begin_block = out_blocks_ * group / groups_;
    const int64_t end_block = out_blocks_ * (group + 1) / groups_;
    float* sums = sums_ + chunk * chunk_size_;
    const int64_t pairs = in_blocks_ * pair_;
    std::fill(sums + begin_block * pairs, sums + end_block * pairs, 0.0f);
    for (int64_t image = first; image < end; image += images_)
      for (int64_t row = 0; row < s_.out_height; row += band_)
        add_band(sums, begin_block, end_block, image, std::min(images_, end - image), row,
                 std::min(band_, s_.out_height - row));
  }

  // Tasks of the second phase: each adds the chunks up for some channels.
  int64_t num_reductions() const { return in_blocks_; }

  void reduce(int64_t in_block) const {
    const int64_t channels = std::min<int64_t>(kBlock, s_.channels - in_block * kBlock);
    const int64_t taps = s_.kernel_height * s_.kernel_width;
    for (int64_t tap = 0; tap < taps; ++tap) {
      for (int64_t c = 0; c < channels; ++c) {
        float* to = out_ + (tap * s_.channels + in_block * kBlock + c) * s_.features;
        for (int64_t f = 0; f < out_blocks_; ++f, to += kBlock) {
          const float* from =
              sums_ + (f * in_blocks_ + in_block) * pair_ + (tap * kBlock + c) * kBlock;
          Vector sum = load(from);
          for (int64_t chunk = 1; chunk < chunks_; ++chunk) sum += load(from + chunk * chunk_size_);
          const int64_t features = s_.features - f * kBlock;
          if (features >= kBlock) {
            store(to, sum);
          } else {
            for (int64_t i = 0; i < features; ++i) to[i] = sum[i];
          }
        }
      }
    }
  }

 private:
  Window window(int64_t images, int64_t rows) const {
    return {images, (rows - 1) * s_.row_stride + s_.kernel_height,
            (s_.out_width - 1) * s_.column_stride + s_.kernel_width, in_blocks_};
  }

  void add_band(float* sums, int64_t begin_block, int64_t end_block, int64_t image, int64_t images,
                int64_t row, int64_t rows) const {
    const Window part = window(images, rows);
    // Gradients are copied, too, unless they lie in memory and fill their registers.
    const bool whole = std::is_same_v<G, AsIs> && s_.features % kBlock == 0;
    const Window gradient{images, rows, s_.out_width, whole ? 0 : out_blocks_};
    float* scratch = task_buffer().reserve(part.size() + gradient.size());
    part.fill(scratch, x_, s_.height, s_.width, s_.channels, image, row * s_.row_stride - s_.top,
              -s_.left);
    float* g_scratch = scratch + part.size();
    if (!whole)
      gradient.fill(g_scratch, g_, s_.out_height, s_.out_width, s_.features, image, row, 0);
    for (int64_t f = begin_block; f < end_block; ++f) {
      for (int64_t b = 0; b < in_blocks_; ++b) {
        float* to = sums + (f * in_blocks_ + b) * pair_;
        for (int64_t i = 0; i < images; ++i) {
          const float* x = scratch + b * part.block_size() + i * part.rows * part.row_size();
          const float* g =
              g_scratch + f * gradient.block_size() + i * gradient.rows * gradient.row_size();
          if constexpr (std::is_same_v<G, AsIs>) {
            if (whole)
              g = g_.x + ((image + i) * s_.out_height + row) * s_.out_width * s_.features +
                  f * kBlock;
          }
          const int64_t step = whole ? s_.features : kBlock;
          add_image(x, part.row_size(), g, step, rows,
                    std::min<int64_t>(kBlock, s_.channels - b * kBlock), to);
        }
      }
    }
  }

  void add_image(const float* x, int64_t x_row, const float* g, int64_t g_step, int64_t rows,
                 int64_t channels, float* to) const {
    const int64_t g_row = g_step * s_.out_width, step = s_.row_stride * x_row;
    const auto add = [&](auto function, int64_t i, int64_t j, int64_t c) {
      function(x + i * x_row + j * kBlock + c, step, g, g_step, g_row, rows, s_.out_width,
               to + ((i * s_.kernel_width + j) * kBlock + c) * kBlock);
    };
    const bool narrow = s_.column_stride == 1;
    for (int64_t i = 0; i < s_.kernel_height; ++i) {
      if (s_.kernel_width == 3 && channels == 1) {  // The stem's, grey and in colour.
        add(narrow ? add_products<3, 1, 1> : add_products<3, 1, 2>, i, 0, 0);
      } else if (s_.kernel_width == 3 && channels == 3) {
        add(narrow ? add_products<3, 3, 1> : add_products<3, 3, 2>, i, 0, 0);
      } else {
        for (int64_t j = 0; j < s_.kernel_width; ++j)
          for (int64_t c = 0; c < channels; c += kBlock)
            add(narrow ? add_products<1, kBlock, 1> : add_products<1, kBlock, 2>, i, j, c);
      }
    }
  }

  Shape s_;
  X x_;
  G g_;
  float* out_;
  int64_t in_blocks_, out_blocks_;
  int64_t pair_, chunk_size_;  // Sizes within sums_.
  int64_t chunks_, groups_, band_, images_;
  float* sums_;  // [chunk][feature block][channel block][tap][kBlock][kBlock].
};

}  // namespace autogrow
