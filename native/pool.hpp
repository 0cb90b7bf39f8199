// Threads that stay: starting one costs as much as many a product.
#pragma once
#include <pthread.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace tercile {

// Helpers are started when first wanted and sleep between jobs; none outlives a fork, after which a child starts its own.
class Pool {
 public:
  static Pool& get() {
    static const int once = pthread_atfork(nullptr, nullptr, [] { current().store(new Pool); });
    (void)once;
    return *current().load();
  }

  // Runs work() here and on up to `helpers` threads, until all that began have returned. False, with nothing run, if the
  // pool is busy: with another caller's job, or with the one that this was called from.
  template <typename Work>
  bool run(int helpers, Work& work) {
    if (busy_.exchange(true, std::memory_order_acquire)) return false;
    {
      const std::lock_guard lock(guard_);
      for (; started_ < helpers; ++started_) std::thread([this] { help(); }).detach();
      context_ = &work;
      call_ = [](void* context) { (*static_cast<Work*>(context))(); };
      wanted_ = helpers;
      job_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    work();
    std::unique_lock lock(guard_);
    wanted_ = 0;  // who has not begun has nothing left to do
    done_.wait(lock, [this] { return working_ == 0; });
    lock.unlock();
    busy_.store(false, std::memory_order_release);
    return true;
  }

 private:
  static std::atomic<Pool*>& current() {
    static std::atomic<Pool*> pool{new Pool};  // never destroyed: helpers sleep in it until the process ends
    return pool;
  }

  [[noreturn]] void help() {
    unsigned seen = 0;
    std::unique_lock lock(guard_);
    for (;;) {
      if (job_.load(std::memory_order_relaxed) == seen) {
        // Jobs of a model follow each other within microseconds; then it is worth not to sleep.
        lock.unlock();
        const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(30);
        while (job_.load(std::memory_order_acquire) == seen && std::chrono::steady_clock::now() < end)
          std::this_thread::yield();
        lock.lock();
        wake_.wait(lock, [&] { return job_.load(std::memory_order_relaxed) != seen; });
      }
      seen = job_.load(std::memory_order_relaxed);
      if (wanted_ == 0) continue;
      --wanted_, ++working_;
      lock.unlock();
      call_(context_);
      lock.lock();
      if (--working_ == 0) done_.notify_one();
    }
  }

  std::mutex guard_;
  std::condition_variable wake_, done_;
  std::atomic<unsigned> job_{0};
  std::atomic<bool> busy_{false};
  int started_ = 0, wanted_ = 0, working_ = 0;
  void* context_ = nullptr;
  void (*call_)(void*) = nullptr;
};

}  // namespace tercile
