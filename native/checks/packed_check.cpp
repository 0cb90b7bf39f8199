// Products and steps of every set of kernels set against double precision, without Python: what runs under an emulator.
//
// `make check-aarch64` compiles it for another processor and runs it there by qemu.
#include "../runtime/between.hpp"
#include "packed_products.hpp"
#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

using namespace tercile;
using namespace tercile::checks;

namespace {

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

void check_products(const PackedKernels& k) {
  for (int bits = 1; bits <= 8; ++bits)
    for (const std::size_t columns : {1, 3, 17, 64, 130, 200, 512, 700, 1100})
      for (const std::size_t wide : {columns, std::size_t{7}, std::size_t{16}, std::size_t{20}, std::size_t{32},
                                     std::size_t{64}, std::size_t{128}})
        for (const Grid grid : {Grid::linear, Grid::whole, Grid::real}) {
          if (wide > columns) continue;
          // What else may differ takes turns.
          const std::size_t turn = random_bits() % 8, rows = turn % 2 ? 9 : 14;
          const Case of(k, bits, rows, columns, wide, turn < 2 ? 3 : 1, grid, turn % 3 ? Size::usual : Size::mixed,
                        turn & 2, turn & 4);
          check_rows(k, of);
          check_few(k, of, 1 + turn % 3, grid != Grid::real);
          if (grid != Grid::real) check_batch(k, of, 5 + turn * 2);
        }
}

// Sets without steps between products of their own use the plain ones.
void check(const PackedKernels& k, const BetweenKernels* between) {
  const int before = failures;
  check_products(k);
  for (const std::size_t n : {1, 15, 16, 50})
    if (between) check_between(*between, n, n % 7 + 1, n % 7 + 1 + n);
  std::printf("%s: %d failures\n", k.name, failures - before);
}

}  // namespace

int main() {
  check(packed_kernels_plain, &between_kernels_plain);
#if defined(__aarch64__)
  check(packed_kernels_neon, nullptr);
  if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) check(packed_kernels_dotprod, nullptr);
#elif defined(TERCILE_CHECK_AVX2)
  check(packed_kernels_avx2, &between_kernels_avx2);
  check(packed_kernels_avxvnni, nullptr);
#endif
  return failures > 0;
}
