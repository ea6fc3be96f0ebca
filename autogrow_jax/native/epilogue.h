// What becomes of a convolution's sums before they are written.

#pragma once

#include "vectors.h"

namespace autogrow {

// Sums over values of a register of channels, less the first one: so that little is lost where the
// values are large and alike.
struct Moments {
  Vector first{}, sum{}, square{};
  int64_t count = 0;

  void add(const Vector& value) {
    if (count++ == 0) first = value;
    const Vector difference = value - first;
    sum += difference;
    square += difference * difference;
  }
};

// Count, mean, and sum of squared differences from the mean of many values, for each feature.
struct Spread {
  double* values;    // [3][features], zeros for no values.
  int64_t features;  // Filled up to whole registers.

  // Adds `count` more values of a feature [Chan, Golub and LeVeque, 1979].
  void add(int64_t feature, double count, double mean, double squares) const {
    double &all = values[feature], &all_mean = values[features + feature];
    double& all_squares = values[2 * features + feature];
    if (count == 0) return;
    const double sum = all + count, difference = mean - all_mean;
    all_mean += difference * count / sum;
    all_squares += squares + difference * difference * all * count / sum;
    all = sum;
  }

  void add(int64_t feature, const Moments& moments) const {
    for (int i = 0; i < kBlock && moments.count > 0; ++i) {
      const double sum = moments.sum[i], offset = sum / moments.count;
      add(feature + i, moments.count, moments.first[i] + offset, moments.square[i] - sum * offset);
    }
  }
};

// y, then y * factor + shift where given, then + addend where given, then ReLU where wanted.
struct Epilogue {
  const float* factor = nullptr;  // [features], filled up to whole registers; so is shift.
  const float* shift = nullptr;
  const float* addend = nullptr;  // Of the output's shape.
  bool relu = false;
  double* moments = nullptr;  // A `Spread` for each task.

  bool is_trivial() const { return factor == nullptr && addend == nullptr && !relu; }

  // `at`: of the output, in floats; `count`: features from `feature` on.
  Vector apply(Vector y, int64_t at, int64_t feature, int64_t count) const {
    if (factor != nullptr) y = y * load(factor + feature) + load(shift + feature);
    if (addend != nullptr) y += load_some(addend + at, count);
    return relu ? autogrow::relu(y) : y;
  }

  // What a task keeps the moments of its outputs in.
  Spread spread(int64_t task, int64_t features) const {
    const int64_t room = blocks_of(features) * kBlock;
    return {moments + task * 3 * room, room};
  }
};

}  // namespace autogrow
