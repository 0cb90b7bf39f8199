// Splits a loop over independent pieces among threads; the first exception comes back to the caller.
#pragma once
#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "cpu.hpp"
#include "pool.hpp"

namespace tercile {

template <typename Body>
void parallel(std::ptrdiff_t pieces, Body body) {
  const std::ptrdiff_t workers = std::min<std::ptrdiff_t>(threads(), pieces);
  if (workers <= 1) {
    for (std::ptrdiff_t i = 0; i < pieces; ++i) body(i);
    return;
  }
  std::atomic<std::ptrdiff_t> next{0};
  std::exception_ptr failure;
  std::mutex guard;
  auto work = [&] {
    try {
      for (std::ptrdiff_t i = next++; i < pieces; i = next++) body(i);
    } catch (...) {
      const std::lock_guard lock(guard);
      if (!failure) failure = std::current_exception();
      next = pieces;
    }
  };
  if (!Pool::get().run(static_cast<int>(workers) - 1, work)) {
    std::vector<std::thread> own;
    for (std::ptrdiff_t i = 1; i < workers; ++i) own.emplace_back(work);
    work();
    for (auto& thread : own) thread.join();
  }
  if (failure) std::rethrow_exception(failure);
}

// Calls body(first, last) for pieces of so many rows of numbers.
template <typename Body>
void in_chunks(std::size_t rows, std::size_t columns, Body body) {
  const std::size_t chunk = std::max<std::size_t>(1, (1 << 16) / std::max<std::size_t>(columns, 1));
  parallel((rows + chunk - 1) / chunk,
           [&](std::ptrdiff_t piece) { body(piece * chunk, std::min(rows, (piece + 1) * chunk)); });
}

}  // namespace tercile
