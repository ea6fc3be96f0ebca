// Tasks shared by the calling thread and XLA's own.

#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>

#include "constants.h"

namespace autogrow {

// The threads of a call, which goes through many phases of tasks.
//
// Other threads join when they are free, and stay for all phases. The caller takes tasks, too, and
// waits for nothing but tasks that a thread has begun. So it ends even where no other thread is
// ever free, and calls may run at the same time.
class Team {
 public:
  // pool: has num_threads() and Schedule(function), as XLA's.
  template <class Pool>
  explicit Team(Pool& pool) : shared_(std::make_shared<Shared>()) {
    const auto caller = std::this_thread::get_id();
    try {
      for (int64_t i = 1; i < pool.num_threads(); ++i) {
        pool.Schedule([shared = shared_, caller] {
          // A pool whose queue is full runs it at once: the caller would wait for itself.
          if (std::this_thread::get_id() != caller) shared->help();
        });
      }
    } catch (const std::exception&) {
      // Fewer helpers, then.
    }
  }
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;
  ~Team() {
    shared_->closed = true;
    shared_->wake();
  }

  // Runs function(0) to function(count - 1), in any order, one phase.
  //
  // Throws what the first of them threw that did.
  template <typename Function>
  void run(int64_t count, const Function& function) {
    if (count <= 0) return;
    Shared& shared = *shared_;
    shared.function = &function;
    shared.call = [](const void* f, int64_t task) { (*static_cast<const Function*>(f))(task); };
    shared.count = count;
    shared.done = 0;
    shared.tickets = ++phase_ << 32 | static_cast<uint64_t>(count);
    if (count > 1) shared.wake();
    while (shared.work()) {
    }
    // Whoever has begun a task is about to end it.
    for (int64_t spins = 0; shared.done != count; ++spins) pause(spins);
    if (shared.failed) std::rethrow_exception(shared.error);
  }

 private:
  static void pause(int64_t spins) {
    if (spins < kSpins) {
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    } else {
      std::this_thread::yield();
    }
  }

  // Outlives the team where a thread comes too late.
  struct Shared {
    // The phase, and how many of its tasks nobody has begun. Both in one, so that a ticket belongs
    // to a phase; the fields below are read by holders of a ticket alone, and are the caller's to
    // change once all of them are done.
    std::atomic<uint64_t> tickets{0};
    std::atomic<int64_t> done{0}, sleeping{0};
    std::atomic<bool> closed{false}, failed{false};
    std::exception_ptr error;  // Written by whoever failed first, read once all are done.
    void (*call)(const void*, int64_t) = nullptr;
    const void* function = nullptr;
    int64_t count = 0;
    std::mutex mutex;
    std::condition_variable woken;

    static bool any(uint64_t tickets) { return (tickets & 0xffffffff) != 0; }

    // Runs a task; false where all have been begun.
    bool work() {
      uint64_t seen = tickets;
      do {
        if (!any(seen)) return false;
      } while (!tickets.compare_exchange_weak(seen, seen - 1));
      try {
        call(function, count - static_cast<int64_t>(seen & 0xffffffff));
      } catch (...) {
        if (!failed.exchange(true)) error = std::current_exception();
      }
      ++done;
      return true;
    }

    void help() {
      for (int64_t spins = 0; !closed; ++spins) {
        if (work()) {
          spins = 0;
        } else if (spins < kSpins) {
          pause(spins);
        } else {
          std::unique_lock<std::mutex> lock(mutex);
          ++sleeping;
          woken.wait(lock, [this] { return closed || any(tickets); });
          --sleeping;
          spins = 0;
        }
      }
    }

    void wake() {
      if (sleeping == 0) return;
      const std::lock_guard<std::mutex> lock(mutex);
      woken.notify_all();
    }
  };

  std::shared_ptr<Shared> shared_;
  uint64_t phase_ = 0;
};

}  // namespace autogrow
