// Trellis codes: a code is pushed into a shift register whose content picks the value. Codes of a column are found by
// the Viterbi search, from state 0 at the top of each strip.
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "column_code.hpp"
#include "cpu.hpp"

namespace tercile {
namespace {

constexpr float kFar = 1e4f;       // targets are far beyond the last value long before
constexpr float kNever = 1e30f;    // cost of a state that can't be reached

// State after a code: the last `memory` bits. `values` by state.
class TrellisCode : public ColumnCode {
 public:
  TrellisCode(int memory, Array<const float, 1> values, Array<const std::uint8_t, 1> bits)
      : ColumnCode(bits), memory(memory), values(values.data(), values.data() + values.shape(0)) {
    if (memory < 6 || memory > 16 || this->values.size() != std::size_t{1} << memory)
      throw std::invalid_argument("a trellis has 6 to 16 bits of memory and one value a state");
    for (const std::uint8_t b : this->bits)
      if (b < 1 || b > 5 || b + 4 > memory) throw std::invalid_argument("a row of a trellis takes 1 to 5 bits");
    const auto [low, high] = std::minmax_element(this->values.begin(), this->values.end());
    lowest = *low;
    highest = *high;
  }

  std::unique_ptr<ColumnSearch> search(Index longest) const override;

  void values_of(const std::uint8_t* codes, Index length, Index stride, float* found) const override {
    const std::uint32_t mask = (1u << memory) - 1u;
    std::uint32_t state = 0;
    for (Index i = 0; i < length; ++i) {
      state = ((state << bits[i]) | codes[i * stride]) & mask;
      found[i * stride] = values[state];
    }
  }

  const int memory;
  const std::vector<float> values;
  float lowest, highest;
};

// Viterbi's search.
class TrellisSearch : public ColumnSearch {
 public:
  TrellisSearch(const TrellisCode& code, Index longest)
      : code_(code), before_(code.values.size()), after_(code.values.size()), from_(longest * (code.values.size() / 2)) {}

  void run(const float* target, const float* weight, Index length, std::uint8_t* codes, float* value) override {
    const Kernels& k = kernels();
    const Index stride = static_cast<Index>(code_.values.size()) / 2;
    std::fill(before_.begin(), before_.end(), kNever);
    before_[0] = 0.0f;
    for (Index i = 0; i < length; ++i) {
      const float t = std::isnan(target[i]) ? 0.0f : std::clamp(target[i], -kFar, kFar);
      const float w = weight ? weight[i] : 1.0f;
      // What no value can reach costs all paths alike; left in, it would swallow the differences between them.
      const float beyond = t - std::clamp(t, code_.lowest, code_.highest);
      k.trellis_step(code_.memory, code_.bits[i], before_.data(), code_.values.data(), t, w, w * beyond * beyond,
                     after_.data(), from_.data() + i * stride);
      before_.swap(after_);
    }
    Index state = std::min_element(before_.begin(), before_.end()) - before_.begin();
    for (Index i = length - 1; i >= 0; --i) {
      const int bits = code_.bits[i];
      const Index group = state >> bits;
      codes[i] = static_cast<std::uint8_t>(state & ((1 << bits) - 1));
      value[i] = code_.values[state];
      state = (static_cast<Index>(from_[i * stride + group]) << (code_.memory - bits)) | group;
    }
  }

 private:
  const TrellisCode& code_;
  std::vector<float> before_, after_;
  std::vector<std::uint8_t> from_;
};

std::unique_ptr<ColumnSearch> TrellisCode::search(Index longest) const {
  return std::make_unique<TrellisSearch>(*this, longest);
}

}  // namespace

void bind_trellis(nb::module_& module) {
  using namespace nb::literals;
  nb::class_<TrellisCode, ColumnCode>(module, "TrellisCode")
      .def(nb::init<int, Array<const float, 1>, Array<const std::uint8_t, 1>>(), "memory"_a, "values"_a, "bits"_a);
}

}  // namespace tercile
