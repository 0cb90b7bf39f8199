// Which of the products that are compiled for each width of codes a matrix takes; the same for all sets.
#pragma once
#include "../runtime/packed.hpp"
#include "lanes.hpp"

// call(bits, by_plane), a statement that returns, for the codes of w.
#define TERCILE_BY_CODES(w, call)             \
  switch (w.bits + (w.planes > 1 ? 10 : 0)) { \
    case 11: { call(1, true); }               \
    case 12: { call(2, true); }               \
    case 14: { call(4, true); }               \
    case 1: { call(1, false); }               \
    case 2: { call(2, false); }               \
    case 3: { call(3, false); }               \
    case 4: { call(4, false); }               \
    case 5: { call(5, false); }               \
    case 6: { call(6, false); }               \
    case 7: { call(7, false); }               \
    default: { call(8, false); }              \
  }

namespace tercile::TERCILE_TARGET {

// Whether blocks of columns suit products that read whole runs.
TERCILE_INLINE bool suits(const PackedRows& w) {
  return w.across == 1 || w.wide % (kRun * static_cast<std::size_t>(w.planes)) == 0 || w.lane_block;
}

// call<bits, mapped>() for words of 1, 2, 4 or 8 bits, whose codes are whole numbers or are mapped to them.
template <typename Call>
TERCILE_INLINE void by_words(const PackedRows& w, Call call) {
  const auto of = [&]<int bits>() {
    if (w.whole) return call.template operator()<bits, true>();
    call.template operator()<bits, false>();
  };
  switch (w.bits) {
    case 1: return of.template operator()<1>();
    case 2: return of.template operator()<2>();
    case 4: return of.template operator()<4>();
    default: return of.template operator()<8>();
  }
}

}  // namespace tercile::TERCILE_TARGET
