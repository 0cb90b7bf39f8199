// Products and steps of every kernel set against double precision, without Python: what runs under an emulator.
//
// `make check-aarch64` compiles it with the plain set for another processor, and runs it there by qemu.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "../runtime/between.hpp"
#include "../runtime/packed.hpp"

using namespace tercile;

namespace {

std::mt19937 random_bits(0);
int failures = 0;

float normal() { return std::normal_distribution<float>()(random_bits); }

void expect(double found, double wanted, double bound, const char* what) {
  if (std::abs(found - wanted) <= bound) return;
  if (++failures < 20) std::printf("%s: %g instead of %g\n", what, found, wanted);
}

// Rows of codes of some bits in blocks of `wide` columns, activations rounded to bytes.
void check_products(const PackedKernels& k, int bits, std::size_t rows, std::size_t columns, std::size_t wide) {
  PackedRows w{};
  w.rows = rows, w.columns = columns, w.bits = bits, w.base = 1 << (bits - 1), w.unit = 1, w.linear = true, w.planes = 1;
  w.row_bytes = (columns * bits + 31) / 32 * 4, w.tall = 1, w.wide = wide, w.across = (columns + wide - 1) / wide;
  std::vector<std::uint8_t> words(rows * w.row_bytes), codes(columns + 64);
  for (std::uint8_t& byte : words) byte = static_cast<std::uint8_t>(random_bits());
  std::vector<float> table(256), scale(rows * w.across), space(8 * w.across + 16), y(rows), values(columns);
  for (int i = 0; i < 256; ++i) table[i] = static_cast<float>(i - w.base);
  for (float& s : scale) s = 0.1f + std::abs(normal());
  w.words = words.data(), w.table = table.data(), w.scale = scale.data();
  const std::size_t runs = runs_of(columns), parts = wide == columns ? 1 : wide % kRun ? runs : w.across;
  const std::size_t in_part = parts == 1 ? runs : wide % kRun ? 1 : wide / kRun;
  std::vector<std::int8_t> x(runs * kRun), arranged(runs * kRun);
  for (std::size_t c = 0; c < columns; ++c) x[c] = static_cast<std::int8_t>(static_cast<int>(random_bits() % 255) - 127);
  std::vector<std::int32_t> start(parts * 16);
  const float one = 1;
  k.arrange_bytes(w, x.data(), arranged.data(), start.data(), in_part);
  if (!k.dot_wholes(w, 0, rows, {arranged.data(), 1, x.size(), &one, start.data(), parts, nullptr}, space.data(), y.data(), rows))
    return;
  for (std::size_t r = 0; r < rows; ++r) {
    double wanted = 0, bound = 0;
    k.codes(w, r, 0, columns, codes.data());
    k.values(w, codes.data(), columns, values.data());
    for (std::size_t c = 0; c < columns; ++c) {
      std::uint32_t code = 0;
      for (int b = 0; b < bits; ++b) {
        const std::size_t at = c * bits + b;
        code |= (words[r * w.row_bytes + at / 8] >> at % 8 & 1u) << b;
      }
      expect(values[c], static_cast<double>(code) - w.base, 0, "value");
      const double term = (static_cast<double>(code) - w.base) * scale[r * w.across + c / wide] * x[c];
      wanted += term, bound += std::abs(term);
    }
    expect(y[r], wanted, 4e-6 * bound + 1e-6, "product");
  }
}

void check_between(const BetweenKernels& k, std::size_t n, std::size_t queries, std::size_t keys) {
  std::vector<float> x(n), up(n), gelu(n), gate(n), other(n), gain(n), out(n);
  for (std::size_t i = 0; i < n; ++i) x[i] = 3 * normal(), up[i] = normal(), other[i] = normal(), gain[i] = normal();
  gelu = gate = x;
  k.gelu(gelu.data(), n), k.gate(gate.data(), up.data(), n);
  k.layer_norm(x.data(), other.data(), 1, n, gain.data(), up.data(), 1e-5f, out.data());
  double mean = 0, variance = 0;
  for (std::size_t i = 0; i < n; ++i) mean += (double(x[i]) + other[i]) / n;
  for (std::size_t i = 0; i < n; ++i) variance += std::pow(double(x[i]) + other[i] - mean, 2) / n;
  for (std::size_t i = 0; i < n; ++i) {
    expect(gelu[i], 0.5 * x[i] * (1 + std::erf(x[i] * std::sqrt(0.5))), 2e-6, "gelu");
    expect(gate[i], x[i] / (1 + std::exp(-double(x[i]))) * up[i], 1e-5, "gate");
    expect(out[i], (double(x[i]) + other[i] - mean) / std::sqrt(variance + 1e-5) * gain[i] + up[i], 2e-5, "layer_norm");
  }
  constexpr std::size_t wide = 32;
  const std::size_t room = (keys + 15) / 16 * 16;
  std::vector<float> query(queries * wide), key(wide * room), value(keys * wide), mixed(queries * wide), space(4 * room);
  for (auto* part : {&query, &key, &value})
    for (float& element : *part) element = normal();
  k.attend({query.data(), queries, wide, key.data(), keys, room, value.data(), wide, wide, 0.2f, nullptr, 0, true,
            mixed.data(), wide}, space.data());
  for (std::size_t q = 0; q < queries; ++q) {
    std::vector<double> wanted(wide);
    double sum = 0;
    for (std::size_t at = 0; at < keys - queries + q + 1; ++at) {
      double score = 0;
      for (std::size_t d = 0; d < wide; ++d) score += 0.2 * query[q * wide + d] * key[d * room + at];
      sum += std::exp(score);
      for (std::size_t d = 0; d < wide; ++d) wanted[d] += std::exp(score) * value[at * wide + d];
    }
    for (std::size_t d = 0; d < wide; ++d) expect(mixed[q * wide + d], wanted[d] / sum, 1e-5, "attention");
  }
}

void check(const PackedKernels& k, const BetweenKernels& between) {
  for (int bits = 1; bits <= 8; ++bits)
    for (const std::size_t columns : {1, 17, 64, 130, 700})
      for (const std::size_t wide : {columns, std::size_t{64}, std::size_t{128}})
        if (wide <= columns) check_products(k, bits, 9, columns, wide);
  for (const std::size_t n : {1, 15, 16, 50}) check_between(between, n, n % 7 + 1, n % 7 + 1 + n);
  std::printf("%s: %d failures\n", k.name, failures);
}

}  // namespace

int main() {
  check(packed_kernels_plain, between_kernels_plain);
  return failures > 0;
}
