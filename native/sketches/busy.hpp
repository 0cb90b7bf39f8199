// A sketch is for one thread at a time. Python lets other threads run while an array is read, so a second one that comes
// to the same sketch meanwhile is turned away instead of spoiling it.
#pragma once
#include <atomic>
#include <stdexcept>

namespace tercile {

class Busy {
 public:
  Busy() = default;
  Busy(const Busy&) {}
  Busy& operator=(const Busy&) { return *this; }

 private:
  friend class Hold;
  mutable std::atomic<bool> held_{false};
};

class Hold {
 public:
  explicit Hold(const Busy& busy) : busy_(busy) {
    if (busy.held_.exchange(true, std::memory_order_acquire))
      throw std::runtime_error("the sketch is in use by another thread; give each thread its own and merge them");
  }
  ~Hold() { busy_.held_.store(false, std::memory_order_release); }
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;

 private:
  const Busy& busy_;
};

}  // namespace tercile
