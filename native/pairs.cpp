// Codes of two values at a time: rows 2k and 2k + 1 of a column share a codeword, the high bits of whose number are the
// code of the first row. A last row without a partner takes codewords whose low bits are 0.
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "column_code.hpp"

namespace tercile {
namespace {

constexpr float kFar = 1e4f;  // targets are far beyond the last value long before

float bounded(float target) { return std::isnan(target) ? 0.0f : std::clamp(target, -kFar, kFar); }

class PairCode : public ColumnCode {
 public:
  PairCode(Array<const float, 2> pairs, Array<const std::uint8_t, 1> bits) : ColumnCode(bits) {
    if (this->bits.size() < 2 || this->bits.size() % 2) throw std::invalid_argument("bits must hold pairs of rows");
    low_bits = this->bits[1];
    const int all = this->bits[0] + low_bits;
    for (std::size_t r = 0; r < this->bits.size(); r += 2)
      if (this->bits[r] + low_bits != all || this->bits[r + 1] != low_bits || this->bits[r] < 1 || all > 8)
        throw std::invalid_argument("every pair of rows takes the same bits, 8 in all at most");
    if (pairs.shape(1) != 2 || pairs.shape(0) != std::size_t{1} << all)
      throw std::invalid_argument("pairs must hold two values for each codeword");
    for (std::size_t i = 0; i < pairs.shape(0); ++i) {
      first.push_back(pairs.data()[2 * i]);
      second.push_back(pairs.data()[2 * i + 1]);
    }
  }

  std::unique_ptr<ColumnSearch> search(Index longest) const override;

  void values_of(const std::uint8_t* codes, Index length, Index stride, float* found) const override {
    const std::size_t mask = first.size() - 1;
    for (Index i = 0; i < length; i += 2) {
      const bool both = i + 1 < length;
      const std::size_t word = ((std::size_t{codes[i * stride]} << low_bits) | (both ? codes[(i + 1) * stride] : 0)) & mask;
      found[i * stride] = first[word];
      if (both) found[(i + 1) * stride] = second[word];
    }
  }

  int low_bits;
  std::vector<float> first, second;

 protected:
  // Even, so that pairs are cut apart at the end of the matrix only.
  Index strip_height(Index rows) const override {
    const Index height = ColumnCode::strip_height(rows);
    return height + height % 2;
  }
};

// Looks at every codeword.
class PairSearch : public ColumnSearch {
 public:
  explicit PairSearch(const PairCode& code) : code_(code), cost_(code.first.size()) {}

  void run(const float* target, const float* weight, Index length, std::uint8_t* codes, float* value) override {
    const std::size_t words = cost_.size(), low = (std::size_t{1} << code_.low_bits) - 1;
    for (Index i = 0; i < length; i += 2) {
      const bool both = i + 1 < length;
      const float x = bounded(target[i]), y = both ? bounded(target[i + 1]) : 0.0f;
      const float u = weight ? weight[i] : 1.0f, v = !both ? 0.0f : weight ? weight[i + 1] : 1.0f;
      for (std::size_t word = 0; word < words; ++word) {
        const float a = x - code_.first[word], b = y - code_.second[word];
        cost_[word] = u * a * a + v * b * b;
      }
      std::size_t best = 0;
      float least = std::numeric_limits<float>::infinity();
      for (std::size_t word = 0; word < words; word += both ? 1 : low + 1)
        if (cost_[word] < least) {
          least = cost_[word];
          best = word;
        }
      codes[i] = static_cast<std::uint8_t>(best >> code_.low_bits);
      value[i] = code_.first[best];
      if (both) {
        codes[i + 1] = static_cast<std::uint8_t>(best & low);
        value[i + 1] = code_.second[best];
      }
    }
  }

 private:
  const PairCode& code_;
  std::vector<float> cost_;
};

std::unique_ptr<ColumnSearch> PairCode::search(Index) const { return std::make_unique<PairSearch>(*this); }

}  // namespace

void bind_pairs(nb::module_& module) {
  using namespace nb::literals;
  nb::class_<PairCode, ColumnCode>(module, "PairCode")
      .def(nb::init<Array<const float, 2>, Array<const std::uint8_t, 1>>(), "pairs"_a, "bits"_a);
}

}  // namespace tercile
