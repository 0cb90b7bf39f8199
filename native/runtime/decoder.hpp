// Decodes rows within a range of columns; those of a trellis fastest from the top down.
#pragma once
#include <algorithm>
#include <vector>

#include "matrix.hpp"

namespace tercile {

class Decoder {
 public:
  Decoder(const PackedMatrix& matrix, std::size_t first, std::size_t last)
      : m_(matrix), w_(matrix.view()), trellis_(matrix.trellis()), k_(packed_kernels()), first_(first),
        count_(last - first), codes_(runs_of(count_) * kRun), state_(trellis_ ? codes_.size() : 0),
        scales_((count_ + w_.wide - 1) / w_.wide + 1) {}

  void floats(std::size_t row, float* out) {
    if (trellis_) {
      advance(row);
      k_.look_up_floats(state_.data(), count_, w_.table, out);
    } else {
      k_.codes(w_, row, first_, count_, codes_.data());
      k_.values(w_, codes_.data(), count_, out);
    }
    const std::size_t from = first_ / w_.wide, blocks = (first_ + count_ - 1) / w_.wide - from + 1;
    const float* offset = w_.offset ? w_.offset + row / w_.tall * w_.across + from : nullptr;
    k_.scales(w_, row, from, blocks, 1.0f, scales_.data());
    for (std::size_t b = 0, c = 0; b < blocks; ++b) {
      const std::size_t end = std::min((from + b + 1) * w_.wide - first_, count_);
      k_.affine(out + c, end - c, scales_[b], offset ? offset[b] : 0.0f);
      c = end;
    }
  }

  // Whole numbers, filled up with `base` to whole runs.
  void wholes(std::size_t row, std::uint8_t* out) {
    const std::size_t padded = runs_of(count_) * kRun;
    if (trellis_) {
      advance(row);
      k_.look_up_bytes(state_.data(), count_, trellis_->memory, w_.whole, out);
    } else {
      k_.codes(w_, row, first_, count_, out);
      if (w_.whole)
        for (std::size_t i = 0; i < count_; ++i) out[i] = w_.whole[out[i]];
    }
    for (std::size_t i = count_; i < padded; ++i) out[i] = static_cast<std::uint8_t>(w_.base);
  }

 private:
  void advance(std::size_t row) {
    const TrellisRows& t = *trellis_;
    std::size_t from = t.warm(row);
    if (next_ <= row && next_ >= from && next_ > row / t.height * t.height) {
      from = next_;
    } else {
      std::fill(state_.begin(), state_.end(), std::uint16_t{0});
    }
    for (; from <= row; ++from)
      k_.shift_in(w_.words, m_.bytes(), t.start[from] + first_ * t.bits[from], t.bits[from], count_,
                  static_cast<std::uint16_t>((1u << t.memory) - 1u), state_.data());
    next_ = row + 1;
  }

  static constexpr std::size_t kNowhere = ~std::size_t{0};
  const PackedMatrix& m_;
  const PackedRows& w_;
  const TrellisRows* trellis_;
  const PackedKernels& k_;
  std::size_t first_, count_, next_ = kNowhere;
  std::vector<std::uint8_t> codes_;
  std::vector<std::uint16_t> state_;
  std::vector<float> scales_;
};

}  // namespace tercile
