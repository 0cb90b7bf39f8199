// The k nearest so far of each query: a heap with the farthest on top, in arrays that the caller keeps between calls.
#pragma once
#include <cstddef>
#include <cstdint>

namespace tercile {

struct Heap {
  float* distance;
  std::int64_t* row;
  std::size_t size;

  float farthest() const { return distance[0]; }

  // Replaces the farthest; only called with something nearer.
  void replace(float nearer, std::int64_t its_row) {
    std::size_t at = 0;
    for (;;) {
      std::size_t child = 2 * at + 1;
      if (child >= size) break;
      if (child + 1 < size && distance[child + 1] > distance[child]) ++child;
      if (distance[child] <= nearer) break;
      distance[at] = distance[child];
      row[at] = row[child];
      at = child;
    }
    distance[at] = nearer;
    row[at] = its_row;
  }
};

}  // namespace tercile
