// A table as boosted trees read it: blocks of rows, and in each block every column by itself, sorted by value, without
// the missing entries (the column block of Chen and Guestrin 2016, section 4.1). Blocks lie in memory or in a file;
// of a file only the run that is being read is in memory, and the system is told which one comes next.
#pragma once
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace tercile {

// One column in one block: values in order, and for each the row within the block.
struct Run {
  const float* values;
  const std::uint32_t* rows;
  std::size_t size;
};

class ColumnBlocks {
 public:
  // `counts` and `offsets` are (blocks, features): how many entries a run has, and where it starts in `memory[block]`
  // or in the file.
  ColumnBlocks(std::size_t features, std::vector<std::uint32_t> heights, std::vector<std::uint32_t> counts,
               std::vector<std::uint64_t> offsets, std::vector<const char*> memory, int file)
      : features_(features), heights_(std::move(heights)), counts_(std::move(counts)), offsets_(std::move(offsets)),
        memory_(std::move(memory)), file_(file) {
    if (counts_.size() != heights_.size() * features_ || offsets_.size() != counts_.size())
      throw std::invalid_argument("counts and offsets must be (blocks, features)");
    for (std::size_t i = 0; i < counts_.size(); ++i)
      if (counts_[i] > heights_[i / features_]) throw std::invalid_argument("a run is longer than its block");
    first_.push_back(0);
    for (auto height : heights_) first_.push_back(first_.back() + height);
    present_.assign(features_, 0);
    for (std::size_t i = 0; i < counts_.size(); ++i) present_[i % features_] += counts_[i];
  }

  std::size_t features() const { return features_; }
  std::size_t blocks() const { return heights_.size(); }
  std::size_t rows() const { return first_.back(); }
  std::size_t first_row(std::size_t block) const { return first_[block]; }
  bool complete(std::size_t feature) const { return present_[feature] == rows(); }

  // `scratch` holds what is read from a file until the next call.
  Run run(std::size_t block, std::size_t feature, std::vector<char>& scratch) const {
    const std::size_t i = block * features_ + feature, size = counts_[i];
    const char* data;
    if (file_ < 0) {
      data = memory_[block] + offsets_[i];
    } else {
      scratch.resize(8 * size);
      read(scratch.data(), 8 * size, offsets_[i]);
#ifdef POSIX_FADV_WILLNEED
      const std::size_t next = block + 1 < blocks() ? i + features_ : feature + 1 < features_ ? feature + 1 : 0;
      ::posix_fadvise(file_, static_cast<off_t>(offsets_[next]), 8 * static_cast<off_t>(counts_[next]),
                      POSIX_FADV_WILLNEED);
#endif
      data = scratch.data();
    }
    const Run out{reinterpret_cast<const float*>(data), reinterpret_cast<const std::uint32_t*>(data + 4 * size), size};
    if (file_ >= 0) check(out, heights_[block]);
    return out;
  }

 private:
  // What a file says is looked at before it is an index or a loop relies on its order.
  static void check(const Run& run, std::uint32_t height) {
    bool fine = run.size == 0 || run.values[0] == run.values[0];
    for (std::size_t j = 0; j < run.size; ++j) fine &= run.rows[j] < height;
    for (std::size_t j = 1; j < run.size; ++j) fine &= run.values[j - 1] <= run.values[j];
    if (!fine) throw std::invalid_argument("the file of column blocks is damaged");
  }

  void read(char* to, std::size_t size, std::uint64_t from) const {
    while (size > 0) {
      const ssize_t got = ::pread(file_, to, size, static_cast<off_t>(from));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) throw std::invalid_argument("the file of column blocks is truncated or cannot be read");
      to += got;
      from += static_cast<std::uint64_t>(got);
      size -= static_cast<std::size_t>(got);
    }
  }

  std::size_t features_;
  std::vector<std::uint32_t> heights_, counts_;
  std::vector<std::uint64_t> offsets_, first_, present_;
  std::vector<const char*> memory_;
  int file_;
};

// Sorts the columns of a block of rows: returns the runs one after another, and how long each is. NaN is missing.
inline std::vector<char> sorted_columns(const float* x, std::size_t rows, std::size_t features,
                                        std::vector<std::uint32_t>& counts) {
  std::vector<char> out;
  out.reserve(8 * rows * features);
  std::vector<std::pair<float, std::uint32_t>> entries;
  for (std::size_t f = 0; f < features; ++f) {
    entries.clear();
    for (std::size_t r = 0; r < rows; ++r) {
      const float v = x[r * features + f];
      if (v == v) entries.emplace_back(v + 0.0f, static_cast<std::uint32_t>(r));
    }
    std::sort(entries.begin(), entries.end());
    const std::size_t start = out.size(), n = entries.size();
    out.resize(start + 8 * n);
    auto* values = reinterpret_cast<float*>(out.data() + start);
    auto* index = reinterpret_cast<std::uint32_t*>(out.data() + start + 4 * n);
    for (std::size_t i = 0; i < n; ++i) {
      values[i] = entries[i].first;
      index[i] = entries[i].second;
    }
    counts.push_back(static_cast<std::uint32_t>(n));
  }
  return out;
}

}  // namespace tercile
