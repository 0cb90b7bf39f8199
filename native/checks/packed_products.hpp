// Products of a case, as runtime/few.cpp and runtime/panels.cpp ask for them, set against double precision.
#pragma once
#include <algorithm>

#include "packed_case.hpp"

namespace tercile::checks {

// Activations rounded to bytes and as floats, rows `step` apart with zeros behind the columns.
struct Rows {
  std::size_t m, step;
  std::vector<std::int8_t> whole;
  std::vector<float> real, scale, sums;  // sums over blocks, of floats and of bytes times their scale
  std::vector<float> whole_sums;

  Rows(const PackedRows& w, std::size_t m) : m(m), step((w.columns + 511) / 512 * 512) {
    whole.resize(m * step), real.resize(m * w.columns), sums.resize(m * w.across), whole_sums = sums;
    for (std::size_t t = 0; t < m; ++t) {
      scale.push_back(0.01f + std::abs(normal()));
      for (std::size_t c = 0; c < w.columns; ++c) {
        const int extreme = static_cast<int>(random_bits() % 8);  // many at the ends, where 16 bits may overflow
        const int value = extreme == 0 ? -127 : extreme < 4 ? 127 : static_cast<int>(random_bits() % 255) - 127;
        whole[t * step + c] = static_cast<std::int8_t>(value);
        real[t * w.columns + c] = normal();
        sums[t * w.across + c / w.wide] += real[t * w.columns + c];
        whole_sums[t * w.across + c / w.wide] += scale[t] * static_cast<float>(value);
      }
    }
  }
};

inline void compare(const Case& of, const Rows& x, const std::vector<float>& y, std::size_t y_step, bool whole,
                    const char* what) {
  for (std::size_t t = 0; t < x.m; ++t)
    for (std::size_t r = 0; r < of.w.rows; ++r) {
      double wanted = 0, bound = 0;
      for (std::size_t c = 0; c < of.w.columns; ++c) {
        const double factor = whole ? static_cast<double>(x.whole[t * x.step + c]) * x.scale[t] : x.real[t * of.w.columns + c];
        wanted += of.number(r, c) * factor;
        bound += (std::abs(of.number(r, c)) + std::abs(of.w.offset ? of.offset[of.block(r, c)] : 0.0)) * std::abs(factor);
      }
      expect(y[t * y_step + r], wanted, 4e-6 * bound + 1e-35, what, &of.w);
    }
}

// Codes, values and scales to the bit.
inline void check_rows(const PackedKernels& k, const Case& of) {
  const PackedRows& w = of.w;
  std::vector<std::uint8_t> codes(runs_of(w.columns) * kRun);
  std::vector<float> values(w.columns), scales(w.across);
  for (std::size_t r = 0; r < w.rows; ++r)
    for (const std::size_t first : {std::size_t{0}, w.columns / 2 / kRun * kRun}) {
      const std::size_t count = w.columns - first;
      k.codes(w, r, first, count, codes.data());
      k.values(w, codes.data(), count, values.data());
      k.scales(w, r, 0, w.across, 2.0f, scales.data());
      for (std::size_t c = 0; c < count; ++c) {
        const int code = of.code[r * w.columns + first + c];
        expect(codes[c], code, 0, "code", &w);
        expect(values[c], of.table[code], 0, "value", &w);
      }
      for (std::size_t b = 0; b < w.across; ++b) expect(scales[b], 2.0 * of.scale[of.block(r, b * w.wide)], 0, "scale", &w);
    }
}

inline void check_few(const PackedKernels& k, const Case& of, std::size_t m, bool whole_numbers) {
  const PackedRows& w = of.w;
  const Rows x(w, m);
  const std::size_t run = kRun * static_cast<std::size_t>(w.planes), step = (w.columns + run - 1) / run * run, runs = step / run;
  const bool whole_runs = w.across == 1 || w.wide % run == 0;
  const std::size_t parts = whole_runs ? w.across : runs;
  const std::size_t in_part = !whole_runs ? 1 : w.across == 1 ? runs : w.wide / run;
  std::vector<float> space(8 * w.across + 16), y(m * w.rows), arranged(m * step);
  std::vector<std::int8_t> bytes(m * step);
  std::vector<std::int32_t> start(m * parts * 16);
  for (std::size_t t = 0; t < m; ++t) {
    k.arrange(w, x.real.data() + t * w.columns, arranged.data() + t * step);
    k.arrange_bytes(w, x.whole.data() + t * x.step, bytes.data() + t * step, start.data() + t * parts * 16, in_part);
  }
  // In two pieces, as threads take them.
  const std::size_t middle = w.rows / 3;
  const FloatRows floats{arranged.data(), m, step, x.sums.data()};
  bool done = k.dot_floats(w, 0, middle, floats, space.data(), y.data(), w.rows);
  done = done && k.dot_floats(w, middle, w.rows, floats, space.data(), y.data(), w.rows);
  if (done) compare(of, x, y, w.rows, false, "product of floats");
  if (!whole_numbers) return;
  const WholeRows wholes{bytes.data(), m, step, x.scale.data(), start.data(), parts, x.whole_sums.data()};
  k.dot_wholes(w, 0, middle, wholes, space.data(), y.data(), w.rows);
  k.dot_wholes(w, middle, w.rows, wholes, space.data(), y.data(), w.rows);
  compare(of, x, y, w.rows, true, "product of bytes");
}

// One panel, of no more than 512 columns.
inline void check_batch(const PackedKernels& k, const Case& of, std::size_t m) {
  const PackedRows& w = of.w;
  if (!k.multiply_bytes || w.columns > 512 || w.rows > k.panel_rows || !(w.across == 1 || w.wide % 4 == 0)) return;
  const Rows x(w, m);
  const bool words = w.planes > 1 || w.bits == 8;
  const std::uint32_t unit = 4 * static_cast<std::uint32_t>(words ? w.planes : 1);
  const std::size_t high = k.panel_rows, padded = runs_of(w.columns) * kRun;
  std::vector<std::uint32_t> columns(w.across);
  std::vector<std::int32_t> start(m * w.across);
  std::vector<float> few(high * w.across), scales(high * w.across), y(m * high);
  for (std::size_t b = 0; b < w.across; ++b) {
    const std::size_t there = std::min(w.wide, w.columns - b * w.wide);
    columns[b] = (static_cast<std::uint32_t>(there) + unit - 1) / unit * unit;
    for (std::size_t t = 0; t < m; ++t) start[t * w.across + b] = -w.base * k.sum_bytes(x.whole.data() + t * x.step + b * w.wide, there);
  }
  std::vector<std::int8_t> tiles(m * x.step);
  k.tile_bytes(words ? w.planes : 1, x.whole.data(), x.step, m, x.step, tiles.data());
  std::vector<std::uint8_t> rows(high * 512), panel(high * 512);
  if (words) {
    k.panel_words(w, 0, w.rows, 0, w.columns, 0, panel.data());
  } else {
    for (std::size_t r = 0; r < w.rows; ++r) {
      k.codes(w, r, 0, w.columns, rows.data() + r * 512);
      for (std::size_t c = 0; c < padded; ++c) {
        std::uint8_t& code = rows[r * 512 + c];
        code = c >= w.columns ? static_cast<std::uint8_t>(w.base) : w.whole ? w.whole[code] : code;
      }
    }
    k.panel_bytes(rows.data(), 512, padded, panel.data());
  }
  for (std::size_t r = 0; r < w.rows; ++r) k.scales(w, r, 0, w.across, w.unit, few.data() + r * w.across);
  k.panel_floats(few.data(), w.across, w.across, scales.data());
  k.multiply_bytes(tiles.data(), x.step, 0, m, panel.data(), {w.across, columns.data(), start.data(), w.across, scales.data()},
                   y.data(), high);
  for (std::size_t t = 0; t < m; ++t)
    for (std::size_t r = 0; r < w.rows; ++r) {
      float& sum = y[t * high + r];
      sum *= x.scale[t];
      for (std::size_t b = 0; b < w.across && w.offset; ++b) sum += of.offset[r / w.tall * w.across + b] * x.whole_sums[t * w.across + b];
    }
  compare(of, x, y, high, true, "batch of bytes");
}

}  // namespace tercile::checks
