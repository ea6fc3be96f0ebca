// Tasks shared by the calling thread and XLA's own.

#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>

#include "xla/ffi/api/ffi.h"

namespace autogrow {

// Runs function(0) to function(count - 1), in any order; false where one of them threw.
//
// The caller takes tasks, too, and waits for nothing but tasks that a thread has begun. So it ends
// even where no other thread is ever free, and calls may run at the same time.
template <typename Function>
bool run_tasks(xla::ffi::ThreadPool& pool, int64_t count, const Function& function) {
  struct Shared {
    std::atomic<int64_t> next{0};
    std::atomic<bool> failed{false};
    std::mutex mutex;
    std::condition_variable all_done;
    int64_t done = 0;
  };
  const auto shared = std::make_shared<Shared>();
  // A helper that comes too late finds no task, and must not touch the caller's `function`.
  const auto work = [shared, count, &function] {
    int64_t done = 0;
    for (int64_t task; (task = shared->next.fetch_add(1)) < count; ++done) {
      try {
        function(task);
      } catch (const std::exception&) {
        shared->failed = true;
      }
    }
    if (done == 0) return;
    const std::lock_guard<std::mutex> lock(shared->mutex);
    shared->done += done;
    if (shared->done == count) shared->all_done.notify_one();
  };
  const int64_t helpers = std::min(pool.num_threads(), count) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule([work] { work(); });
  work();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->all_done.wait(lock, [&] { return shared->done == count; });
  return !shared->failed;
}

}  // namespace autogrow
