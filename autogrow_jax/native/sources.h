// Where a convolution reads its images, and what becomes of the values on the way: so that what
// stands before it in a network needs no pass over memory of its own.
//
// A source is asked for a register of channels at `at`, counted in floats from the first image's
// first pixel, whose first channel is `channel`. Whole: the register is full of channels.

#pragma once

#include "vectors.h"

namespace autogrow {

// Images as they lie in memory.
struct AsIs {
  const float* x;
  int64_t channels;

  template <bool Whole>
  Vector read(int64_t at, int64_t channel) const {
    return Whole ? load(x + at) : load_some(x + at, channels - channel);
  }
  void prefetch(int64_t at) const { autogrow::prefetch(x + at); }
};

// What a channel is multiplied by, and what is added; [channels], filled up to whole registers.
struct Scaling {
  const float* factor;
  const float* shift;

  Vector apply(const Vector& y, int64_t channel) const {
    return y * load(factor + channel) + load(shift + channel);
  }
};

// The output of a convolution, normalised, through a ReLU.
struct Normalized {
  AsIs y;
  Scaling scaling;

  template <bool Whole>
  Vector read(int64_t at, int64_t channel) const {
    return relu(scaling.apply(y.read<Whole>(at, channel), channel));
  }
  void prefetch(int64_t at) const { y.prefetch(at); }
};

// The gradient of what is normalised, from that of the normalised values `g`, once the sums over
// all images that it depends on are known: factor * g + slope * y + offset. With Relu, `g` is the
// gradient of relu(y * factor + shift), and counts where that is above zero.
template <bool Relu>
struct NormalizationGradient {
  AsIs g, y;
  Scaling scaling;
  Scaling of_y;  // Slope and offset.

  template <bool Whole>
  Vector read(int64_t at, int64_t channel) const {
    const Vector value = y.read<Whole>(at, channel);
    Vector gradient = g.read<Whole>(at, channel);
    if (Relu) gradient = scaling.apply(value, channel) > 0.0f ? gradient : Vector{};
    return gradient * load(scaling.factor + channel) + of_y.apply(value, channel);
  }
  void prefetch(int64_t at) const {
    g.prefetch(at);
    y.prefetch(at);
  }
};

}  // namespace autogrow
