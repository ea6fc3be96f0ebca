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

// y [images, out_height, out_width, features], or what `epilogue` makes of it. How the job runs is
// told by the last arguments: as it is, or with the statistics of y.
template <class Source, class... How>
void convolve_how(Team& team, const Shape& s, const Operation<Source>& operation, How... how) {
  if (suits_winograd(s))
    run_correlation(team, WinogradCorrelation<Source>(operation, false, s.top, s.left), how...);
  else
    run_correlation(team, forward(s, operation), how...);
}

template <class Source>
void convolve(Team& team, const Shape& s, Source x, const float* kernel, float* y,
              const Epilogue& epilogue = {}) {
  convolve_how(team, s, forward_operation(s, x, kernel, y, epilogue));
}

template <class Source>
void convolve(Team& team, const Shape& s, Source x, const float* kernel, float* y,
              const Statistics& statistics) {
  convolve_how(team, s, forward_operation(s, x, kernel, y, {}), s.features, statistics);
}

template <class G>
void differentiate_input(Team& team, const Shape& s, G g, const float* kernel, float* grad_x,
                         const Epilogue& epilogue = {}) {
  const Operation<G> operation = input_operation(s, g, kernel, grad_x, epilogue);
  if (suits_winograd(s))
    run_correlation(team, WinogradCorrelation<G>(operation, true, 2 - s.top, 2 - s.left));
  else
    run_correlation(team, input_gradient(s, operation));
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
