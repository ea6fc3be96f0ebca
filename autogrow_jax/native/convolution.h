// The three convolutions of a layer, each by the algorithm that suits its shape.

#pragma once

#include "kernel_gradient.h"
#include "parallel.h"
#include "winograd_correlation.h"
#include "winograd_gradient.h"

namespace autogrow {

// Whether transforming squares of 4x4 outputs costs less than it saves.
inline bool suits_winograd(const Shape& s) {
  if (s.kernel_height != 3 || s.kernel_width != 3 || s.row_stride != 1 || s.column_stride != 1 ||
      s.channels < kBlock / 2 || s.features < kBlock / 2)
    return false;
  const auto filled = [](int64_t size) { return (size + kOutputs - 1) / kOutputs * kOutputs; };
  // An input as wide as the output, or the tiles of both gradients would differ.
  if (s.height != s.out_height || s.width != s.out_width) return false;
  return 5 * filled(s.height) * filled(s.width) <= 8 * s.height * s.width;
}

// Mean and (biased) variance of each feature over all images and pixels.
struct Statistics {
  float* mean;
  float* variance;
};

template <class Job>
void run_correlation(Team& team, Job job) {
  team.run(job.num_packs(), [&](int64_t i) { job.pack(i); });
  team.run(job.num_tasks(), [&](int64_t i) { job.run(i); });
}

template <class Job>
void run_correlation(Team& team, Job job, int64_t features, const Statistics& statistics) {
  const int64_t room = blocks_of(features) * kBlock, tasks = job.num_tasks();
  double* moments = moments_buffer().reserve<double>((tasks + 1) * 3 * room);
  std::fill(moments, moments + (tasks + 1) * 3 * room, 0.0);
  job.keep_moments(moments);
  run_correlation(team, job);
  const Spread all{moments + tasks * 3 * room, room};
  for (int64_t f = 0; f < features; ++f) {
    for (int64_t task = 0; task < tasks; ++task) {
      const double* one = moments + task * 3 * room + f;
      all.add(f, one[0], one[room], one[2 * room]);
    }
    statistics.mean[f] = all.values[room + f];
    statistics.variance[f] = all.values[2 * room + f] / all.values[f];
  }
}

template <class Source>
WinogradCorrelation<Source> winograd_forward(const Shape& s, Source x, const float* kernel,
                                             float* y, Epilogue epilogue) {
  return {{x, s.height, s.width, s.channels}, kernel, s.features, 1, false, y, s.images,
          s.out_height, s.out_width, s.features, s.top, s.left, epilogue};
}

// y[images, out_height, out_width, features], or what `epilogue` makes of it.
template <class Source>
void convolve(Team& team, const Shape& s, Source x, const float* kernel, float* y,
              Epilogue epilogue = {}) {
  if (suits_winograd(s))
    run_correlation(team, winograd_forward(s, x, kernel, y, epilogue));
  else
    run_correlation(team, forward(s, x, kernel, y, epilogue));
}

// The same, and the statistics of y.
template <class Source>
void convolve(Team& team, const Shape& s, Source x, const float* kernel, float* y,
              const Statistics& statistics) {
  if (suits_winograd(s))
    run_correlation(team, winograd_forward(s, x, kernel, y, {}), s.features, statistics);
  else
    run_correlation(team, forward(s, x, kernel, y), s.features, statistics);
}

template <class G>
void differentiate_input(Team& team, const Shape& s, G g, const float* kernel, float* grad_x,
                         Epilogue epilogue = {}) {
  if (suits_winograd(s)) {
    run_correlation(team, WinogradCorrelation<G>(
                              {g, s.out_height, s.out_width, s.features}, kernel, 1, s.features,
                              true, grad_x, s.images, s.height, s.width, s.channels, 2 - s.top,
                              2 - s.left, epilogue));
  } else {
    run_correlation(team, input_gradient(s, g, kernel, grad_x, epilogue));
  }
}

template <class X, class G>
void differentiate_kernel(Team& team, const Shape& s, X x, G g, float* grad_kernel) {
  const auto run = [&](const auto& job) {
    team.run(job.num_tasks(), [&](int64_t i) { job.run(i); });
    team.run(job.num_reductions(), [&](int64_t i) { job.reduce(i); });
  };
  if (suits_winograd(s))
    run(WinogradGradient<X, G>({x, s.height, s.width, s.channels},
                               {g, s.out_height, s.out_width, s.features}, s.images, s.top, s.left,
                               grad_kernel));
  else
    run(KernelGradient<X, G>(s, x, g, grad_kernel));
}

}  // namespace autogrow
