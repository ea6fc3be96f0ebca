// Memory of a thread, kept from call to call: fresh pages would cost more than the arithmetic.

#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

namespace autogrow {

class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }

  // Room for `size` values; what was there may be gone.
  template <typename T = float>
  T* reserve(int64_t size) {
    // A multiple of the alignment, as aligned_alloc wants it.
    const int64_t bytes = (size * static_cast<int64_t>(sizeof(T)) / 64 + 1) * 64;
    if (bytes > bytes_) {
      std::free(data_);
      bytes_ = 0;
      data_ = std::aligned_alloc(64, bytes);
      if (data_ == nullptr) throw std::bad_alloc();
      bytes_ = bytes;
    }
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

// What a task needs for itself.
inline Buffer& task_buffer() {
  thread_local Buffer buffer;
  return buffer;
}

// What the tasks of a call share, which belongs to the calling thread: packed weights or sums, and
// the moments of the outputs.
inline Buffer& call_buffer() {
  thread_local Buffer buffer;
  return buffer;
}
inline Buffer& moments_buffer() {
  thread_local Buffer buffer;
  return buffer;
}

}  // namespace autogrow
