// Batch normalisation beside a convolution: what could not be done while the convolution reads or
// writes, as it needs sums over all images first.

#pragma once

#include <cmath>
#include <vector>

#include "buffer.h"
#include "epilogue.h"
#include "parallel.h"
#include "sources.h"

namespace autogrow {

// A layer's normalisation: its parameters and the statistics it normalises by, each [channels].
struct Normalization {
  const float *scale, *bias, *mean, *variance;
  int64_t channels;
};

// One over the standard deviation, in float64.
inline double inverse_deviation(const Normalization& n, int64_t channel) {
  return 1.0 / std::sqrt(static_cast<double>(n.variance[channel]) + kEpsilon);
}

// A factor and a shift for each channel, filled up to whole registers with zeros.
class Coefficients {
 public:
  explicit Coefficients(int64_t channels)
      : factor_(blocks_of(channels) * kBlock, 0.0f), shift_(factor_) {}

  // What normalises.
  explicit Coefficients(const Normalization& n) : Coefficients(n.channels) {
    for (int64_t c = 0; c < n.channels; ++c) {
      const double factor = n.scale[c] * inverse_deviation(n, c);
      set(c, factor, n.bias[c] - n.mean[c] * factor);
    }
  }

  // The part of the gradient of y that is linear in y: what y contributes by way of the mean and
  // the variance, over `count` pixels. grad_scale and grad_bias: of the whole batch.
  static Coefficients of_gradient(const Normalization& n, const float* grad_scale,
                                  const float* grad_bias, int64_t count) {
    Coefficients result(n.channels);
    for (int64_t c = 0; c < n.channels; ++c) {
      const double inverse = inverse_deviation(n, c), factor = n.scale[c] * inverse;
      const double slope = -factor * inverse * grad_scale[c] / count;
      result.set(c, slope, -factor * grad_bias[c] / count - slope * n.mean[c]);
    }
    return result;
  }

  Scaling scaling() const { return {factor_.data(), shift_.data()}; }

 private:
  void set(int64_t channel, double factor, double shift) {
    factor_[channel] = factor;
    shift_[channel] = shift;
  }

  std::vector<float> factor_, shift_;
};

// Calls function(task, first, end) for pieces of `pixels`, as tasks; their number depends on sizes.
class Pieces {
 public:
  Pieces(int64_t pixels, int64_t channels)
      : pixels_(pixels), count_(std::clamp<int64_t>(pixels * channels / kPiece, 1, kMostPieces)) {}

  int64_t count() const { return count_; }
  int64_t first(int64_t task) const { return pixels_ * task / count_; }

  template <typename Function>
  void run(Team& team, const Function& function) const {
    team.run(count_, [&](int64_t task) { function(task, first(task), first(task + 1)); });
  }

 private:
  int64_t pixels_, count_;
};

// z = y * factor + shift [+ addend] [through a ReLU], over `pixels` of all images.
inline void normalize(Team& team, const float* y, int64_t pixels, int64_t channels,
                      const Epilogue& epilogue, float* z) {
  Pieces(pixels, channels).run(team, [&](int64_t, int64_t first, int64_t end) {
    for (int64_t at = first * channels; at < end * channels; at += channels) {
      for (int64_t c = 0; c < channels; c += kBlock) {
        const int64_t count = channels - c;
        const Vector value = load_some(y + at + c, count);
        store_some(z + at + c, epilogue.apply(value, at + c, c, count), count);
      }
    }
  });
}

// Gradients of a normalisation's scale and bias, from that of its output, `g`.
//
// With a ReLU, what counts is what passes it: where y * factor + shift [+ addend] is above zero. It
// is written to `passed` where that is given.
template <bool Relu>
void differentiate_normalization(Team& team, const Normalization& n, const float* y, const float* g,
                                 const float* addend, int64_t pixels, float* grad_scale,
                                 float* grad_bias, float* passed) {
  const int64_t channels = n.channels, room = blocks_of(channels) * kBlock;
  const Coefficients coefficients(n);
  Epilogue output;
  output.factor = coefficients.scaling().factor;
  output.shift = coefficients.scaling().shift;
  output.addend = addend;
  std::vector<float> means(room, 0.0f);
  std::copy(n.mean, n.mean + channels, means.begin());

  const Pieces pieces(pixels, channels);
  double* sums = moments_buffer().reserve<double>(pieces.count() * 2 * room);
  std::fill(sums, sums + pieces.count() * 2 * room, 0.0);
  pieces.run(team, [&](int64_t task, int64_t first, int64_t end) {
    // So few pixels that the next block of channels finds them in the nearest cache.
    for (int64_t begin = first; begin < end; begin += kPixels) {
      for (int64_t c = 0; c < channels; c += kBlock) {
        const int64_t count = channels - c;
        const Vector mean = load(&means[c]);
        Vector sum{}, product{};
        for (int64_t pixel = begin; pixel < std::min(end, begin + kPixels); ++pixel) {
          const int64_t at = pixel * channels + c;
          const Vector value = load_some(y + at, count);
          Vector gradient = load_some(g + at, count);
          if (Relu) {
            gradient = output.apply(value, at, c, count) > 0.0f ? gradient : Vector{};
            if (passed != nullptr) store_some(passed + at, gradient, count);
          }
          sum += gradient;
          product += gradient * (value - mean);
        }
        double* to = sums + task * 2 * room + c;
        for (int i = 0; i < kBlock; ++i) {
          to[i] += sum[i];
          to[room + i] += product[i];
        }
      }
    }
  });
  for (int64_t c = 0; c < channels; ++c) {
    double sum = 0.0, product = 0.0;
    for (int64_t task = 0; task < pieces.count(); ++task) {
      sum += sums[task * 2 * room + c];
      product += sums[(task * 2 + 1) * room + c];
    }
    grad_bias[c] = sum;
    grad_scale[c] = product * inverse_deviation(n, c);
  }
}

}  // namespace autogrow
