// Values as keys that sort the way the values do, and a sort for arrays of them.
//
// Doubles and 64-bit integers become unsigned integers, so that comparing is one instruction and sorting is counting
// digits; strings of bytes are their own keys.
#pragma once
#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace tercile {

constexpr std::uint64_t kTopBit = std::uint64_t{1} << 63;

inline std::uint64_t to_key(double value) {
  const auto bits = std::bit_cast<std::uint64_t>(value);
  return bits ^ ((bits & kTopBit) ? ~std::uint64_t{0} : kTopBit);
}
inline std::uint64_t to_key(std::int64_t value) { return static_cast<std::uint64_t>(value) ^ kTopBit; }
inline const std::string& to_key(const std::string& value) { return value; }

template <typename T>
struct Keyed {
  using Key = std::uint64_t;
};
template <>
struct Keyed<std::string> {
  using Key = std::string;
};

template <typename T>
T from_key(const typename Keyed<T>::Key& key) {
  if constexpr (std::is_same_v<T, double>)
    return std::bit_cast<double>(key ^ ((key & kTopBit) ? kTopBit : ~std::uint64_t{0}));
  else if constexpr (std::is_same_v<T, std::int64_t>)
    return static_cast<std::int64_t>(key ^ kTopBit);
  else
    return key;
}

// Ascending sort. The three highest digits of 11 bits in which the keys differ are counted, from the lowest of them
// up; keys that agree in all three are put right by insertion, or by std::sort where there are many of them.
inline void sort_keys(std::uint64_t* keys, std::size_t n, std::vector<std::uint64_t>& scratch) {
  if (n < 256) return std::sort(keys, keys + n);
  constexpr int bits = 11, most = 3;
  constexpr std::size_t buckets = std::size_t{1} << bits;
  std::uint64_t differ = 0;
  for (std::size_t i = 1; i < n; ++i) differ |= keys[i] ^ keys[0];
  if (differ == 0) return;
  const int width = 64 - std::countl_zero(differ);
  const int passes = std::min((width + bits - 1) / bits, most);
  const int lowest = std::max(0, width - bits * passes);
  std::uint32_t counts[most][buckets] = {};
  for (std::size_t i = 0; i < n; ++i)
    for (int p = 0; p < passes; ++p) ++counts[p][(keys[i] >> (lowest + p * bits)) & (buckets - 1)];
  scratch.resize(std::max(scratch.size(), n));
  std::uint64_t* from = keys;
  std::uint64_t* to = scratch.data();
  for (int p = 0; p < passes; ++p) {
    std::uint32_t at = 0;
    for (auto& count : counts[p]) at += std::exchange(count, at);
    const int shift = lowest + p * bits;
    for (std::size_t i = 0; i < n; ++i) to[counts[p][(from[i] >> shift) & (buckets - 1)]++] = from[i];
    std::swap(from, to);
  }
  if (from != keys) std::memcpy(keys, from, n * sizeof *keys);
  if (lowest == 0) return;
  std::size_t moves = 0;
  for (std::size_t i = 1; i < n; ++i) {
    const std::uint64_t key = keys[i];
    std::size_t j = i;
    for (; j > 0 && keys[j - 1] > key; --j) keys[j] = keys[j - 1];
    keys[j] = key;
    if ((moves += i - j) > 2 * n) return std::sort(keys, keys + n);
  }
}

inline void sort_keys(std::string* keys, std::size_t n, std::vector<std::string>&) { std::sort(keys, keys + n); }

// Merges sorted a and b into out, which has room for both.
template <typename Key>
void merge_sorted(const Key* a, std::size_t n, const Key* b, std::size_t m, Key* out) {
  std::size_t i = 0, j = 0;
  while (i < n && j < m) {
    const bool second = b[j] < a[i];
    *out++ = second ? b[j] : a[i];
    j += second;
    i += !second;
  }
  out = std::copy(a + i, a + n, out);
  std::copy(b + j, b + m, out);
}

}  // namespace tercile
