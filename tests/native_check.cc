// Runs the kernels over odd shapes under a sanitizer, without Python: `test_native_sanitizers.py`
// builds and runs it. The values are compared with a direct sum, so that a kernel which only stays
// inside its memory does not pass.

#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "chain.h"

namespace {

using namespace autogrow;

// Threads that take what is scheduled, as XLA's do.
class Pool {
 public:
  explicit Pool(int threads) {
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
  }
  ~Pool() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      closed_ = true;
    }
    woken_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  int64_t num_threads() const { return threads_.size() + 1; }
  void Schedule(std::function<void()> function) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      queue_.push_back(std::move(function));
    }
    woken_.notify_one();
  }

 private:
  void work() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      woken_.wait(lock, [this] { return closed_ || !queue_.empty(); });
      if (queue_.empty()) return;
      const auto function = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      function();
      lock.lock();
    }
  }

  std::vector<std::thread> threads_;
  std::deque<std::function<void()>> queue_;
  std::mutex mutex_;
  std::condition_variable woken_;
  bool closed_ = false;
};

// Exactly as large as needed, so that a byte too far is seen.
std::vector<float> draw(int64_t size, float shift = 0.0f) {
  thread_local std::mt19937 generator(0);
  std::normal_distribution<float> normal;
  std::vector<float> values(size);
  for (float& value : values) value = normal(generator) + shift;
  return values;
}

void expect_close(const char* what, const std::vector<float>& found,
                  const std::vector<double>& expected) {
  double largest = 1e-3;
  for (const double value : expected) largest = std::max(largest, std::abs(value));
  for (size_t i = 0; i < found.size(); ++i) {
    if (std::abs(found[i] - expected[i]) <= 1e-4 * largest) continue;
    std::fprintf(stderr, "%s: %g at %zu, not %g\n", what, found[i], i, expected[i]);
    std::exit(1);
  }
}

struct Sizes {
  int64_t images, height, width, channels, features, kernel, stride;
};

void check_convolution(Pool& pool, const Sizes& size) {
  const int64_t pad = (size.kernel - 1) / 2;
  const auto out = [&](int64_t n) { return (n + 2 * pad - size.kernel) / size.stride + 1; };
  const Shape s{size.images,     size.height,   size.width,  size.channels, out(size.height),
                out(size.width), size.features, size.kernel, size.kernel,   size.stride,
                size.stride,     pad,           pad};
  const int64_t inputs = s.images * s.height * s.width * s.channels;
  const int64_t outputs = s.images * s.out_height * s.out_width * s.features;
  const auto x = draw(inputs), g = draw(outputs);
  const auto kernel = draw(size.kernel * size.kernel * s.channels * s.features);
  std::vector<double> y(outputs), grad_x(inputs), grad_kernel(kernel.size());
  for (int64_t n = 0; n < s.images; ++n)
    for (int64_t r = 0; r < s.out_height; ++r)
      for (int64_t q = 0; q < s.out_width; ++q)
        for (int64_t i = 0; i < size.kernel; ++i)
          for (int64_t j = 0; j < size.kernel; ++j) {
            const int64_t row = r * s.row_stride + i - pad, column = q * s.column_stride + j - pad;
            if (row < 0 || row >= s.height || column < 0 || column >= s.width) continue;
            for (int64_t c = 0; c < s.channels; ++c)
              for (int64_t f = 0; f < s.features; ++f) {
                const int64_t at_x = ((n * s.height + row) * s.width + column) * s.channels + c;
                const int64_t at_y = ((n * s.out_height + r) * s.out_width + q) * s.features + f;
                const int64_t at_k = ((i * size.kernel + j) * s.channels + c) * s.features + f;
                y[at_y] += static_cast<double>(x[at_x]) * kernel[at_k];
                grad_x[at_x] += static_cast<double>(g[at_y]) * kernel[at_k];
                grad_kernel[at_k] += static_cast<double>(x[at_x]) * g[at_y];
              }
          }
  Team team(pool);
  std::vector<float> found(outputs), mean(s.features), variance(s.features);
  convolve(team, s, AsIs{x.data(), s.channels}, kernel.data(), found.data());
  expect_close("convolution", found, y);
  convolve(team, s, AsIs{x.data(), s.channels}, kernel.data(), found.data(),
           Statistics{mean.data(), variance.data()});
  expect_close("convolution with statistics", found, y);
  found.resize(inputs);
  differentiate_input(team, s, AsIs{g.data(), s.features}, kernel.data(), found.data());
  expect_close("gradient of the input", found, grad_x);
  found.resize(kernel.size());
  differentiate_kernel(team, s, AsIs{x.data(), s.channels}, AsIs{g.data(), s.features},
                       found.data());
  expect_close("gradient of the kernel", found, grad_kernel);
}

// A stack forward, backward and evaluated: nothing is compared but that all of it is a number.
void check_stack(Pool& pool, int64_t channels, int64_t num_layers, bool residual, int64_t depth) {
  constexpr int64_t kSlots = 3;
  const Shape s{5, 9, 6, channels, 9, 6, channels, 3, 3, 1, 1, 1, 1};
  const int64_t size = s.images * s.height * s.width * channels;
  auto x = draw(size), g = draw(size);
  std::vector<float> z(size), grad_x(size), inputs((kSlots - 1) * size), scratch(3 * size);
  std::deque<std::vector<float>> arrays;  // Which never moves what it holds.
  std::vector<Layer> layers;
  const auto keep = [&](std::vector<float> values) { return arrays.emplace_back(values).data(); };
  const auto zeros = [&](int64_t count) { return keep(std::vector<float>(count)); };
  for (int64_t i = 0; i < num_layers; ++i) {
    Layer layer;
    layer.shape = s;
    layer.kernel = keep(draw(kSlots * layer.kernel_size()));
    layer.scale = keep(draw(kSlots * channels, 1.0f));
    layer.bias = keep(draw(kSlots * channels));
    layer.mean = zeros(kSlots * channels);
    layer.variance = zeros(kSlots * channels);
    layer.y = zeros(kSlots * size);
    layer.grad_kernel = zeros(kSlots * layer.kernel_size());
    layer.grad_scale = zeros(kSlots * channels);
    layer.grad_bias = zeros(kSlots * channels);
    layers.push_back(layer);
  }
  Team team(pool);
  const Stack stack(team, layers, residual, x.data(), inputs.data());
  const Stack::Scratch parts{scratch.data(), scratch.data() + size, scratch.data() + 2 * size};
  stack.forward(depth, z.data());
  stack.backward(depth, g.data(), parts, grad_x.data());
  double sum = 0.0;
  for (int64_t i = 0; i < size; ++i) sum += z[i] + grad_x[i];
  stack.evaluate(depth, parts, z.data());
  for (const float value : z) sum += value;
  if (std::isfinite(sum)) return;
  std::fprintf(stderr, "a stack of %ld channels computes no number\n", static_cast<long>(channels));
  std::exit(1);
}

void check_what_is_thrown(Pool& pool) {
  Team team(pool);
  try {
    team.run(20, [](int64_t i) {
      if (i % 3 == 1) throw std::runtime_error("told");
    });
  } catch (const std::runtime_error&) {
    return;
  }
  std::fprintf(stderr, "what a task throws does not arrive\n");
  std::exit(1);
}

}  // namespace

int main() {
  Pool pool(3);
  for (const Sizes& size : std::vector<Sizes>{{5, 8, 8, 16, 16, 3, 1},
                                              {3, 9, 7, 24, 20, 3, 1},
                                              {4, 9, 7, 5, 33, 3, 2},
                                              {3, 5, 33, 1, 16, 3, 1},
                                              {19, 1, 1, 40, 3, 3, 1},
                                              {2, 17, 16, 3, 20, 7, 2},
                                              {4, 8, 6, 16, 32, 1, 2},
                                              {37, 2, 2, 17, 15, 1, 1},
                                              {2, 6, 5, 12, 9, 5, 1}})
    check_convolution(pool, size);
  for (const int64_t channels : {3, 16, 20})
    for (const int64_t depth : {1, 3})
      for (const bool residual : {false, true}) check_stack(pool, channels, 2, residual, depth);
  check_what_is_thrown(pool);
  // Calls at the same time, each with a team of its own.
  std::vector<std::thread> callers;
  for (int i = 0; i < 3; ++i) callers.emplace_back([&pool] { check_stack(pool, 16, 1, true, 2); });
  for (std::thread& caller : callers) caller.join();
  return 0;
}
