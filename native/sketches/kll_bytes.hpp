// The state of a KLL as bytes and back. Numbers are little-endian as in memory, a string is its length and itself.
#pragma once
#include "kll.hpp"

namespace tercile {

template <typename T>
void put(std::string& out, const T& value) {
  if constexpr (std::is_same_v<T, std::string>) {
    put(out, static_cast<std::uint32_t>(value.size()));
    out += value;
  } else {
    out.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
}

class Reader {
 public:
  Reader(const char* data, std::size_t size) : data_(data), size_(size) {}

  template <typename T>
  void get(T& value) {
    if constexpr (std::is_same_v<T, std::string>) {
      std::uint32_t length;
      get(length);
      value.assign(take(length), length);
    } else {
      std::memcpy(&value, take(sizeof value), sizeof value);
    }
  }
  template <typename T>
  T get() {
    T value;
    get(value);
    return value;
  }
  std::size_t left() const { return size_ - at_; }
  void end() const {
    if (left() > 0) throw std::invalid_argument("the bytes of the sketch are damaged: more follows their end");
  }

 private:
  const char* take(std::size_t n) {
    if (left() < n) throw std::invalid_argument("the bytes of the sketch end too early");
    at_ += n;
    return data_ + (at_ - n);
  }
  const char* data_;
  std::size_t size_, at_ = 0;
};

template <typename T>
std::string save(const Kll<T>& sketch) {
  const auto s = sketch.state();
  std::string out;
  put(out, static_cast<std::uint32_t>(s.k));
  put(out, static_cast<std::uint32_t>(s.shift));
  put(out, static_cast<std::uint32_t>(s.levels.size()));
  put(out, s.count);
  put(out, s.pending_weight);
  put(out, s.random);
  put(out, s.pending);
  put(out, s.minimum);
  put(out, s.maximum);
  put(out, s.variance);
  for (const auto& level : s.levels) put(out, static_cast<std::uint32_t>(level.size()));
  for (const auto& level : s.levels)
    for (const T& v : level) put(out, v);
  return out;
}

template <typename T>
Kll<T> load(const char* data, std::size_t size) {
  Reader in(data, size);
  typename Kll<T>::State s;
  s.k = static_cast<int>(std::min<std::uint32_t>(in.get<std::uint32_t>(), 1 << 20));
  s.shift = static_cast<int>(std::min<std::uint32_t>(in.get<std::uint32_t>(), kMostLevels));
  const auto levels = in.get<std::uint32_t>();
  if (levels > kMostLevels) throw std::invalid_argument("the bytes of the sketch are damaged: too many levels");
  in.get(s.count);
  in.get(s.pending_weight);
  in.get(s.random);
  in.get(s.pending);
  in.get(s.minimum);
  in.get(s.maximum);
  in.get(s.variance);
  std::vector<std::uint32_t> sizes(levels);
  std::size_t total = 0;
  for (auto& size_of : sizes) {
    in.get(size_of);
    total += size_of;
  }
  // Before any memory is asked for: every item takes at least this much of what is left.
  constexpr std::size_t least = std::is_same_v<T, std::string> ? sizeof(std::uint32_t) : sizeof(T);
  if (total > in.left() / least) throw std::invalid_argument("the bytes of the sketch end too early");
  for (const auto size_of : sizes) {
    auto& level = s.levels.emplace_back(size_of);
    for (T& v : level) in.get(v);
  }
  in.end();
  return Kll<T>(std::move(s));
}

}  // namespace tercile
