// What blocks of transformers share: products that read the same activations.
#pragma once
#include <vector>

#include "../parallel.hpp"
#include "between.hpp"
#include "matrix.hpp"

namespace tercile {

void bind_encoder(nb::module_& module);
void bind_llama_block(nb::module_& module);

// A product with a bias, or without one.
struct Layer {
  const PackedMatrix* matrix;
  const float* bias;
};

// Activations that several matrices read, rounded once where they are to be.
class Shared {
 public:
  Shared(const float* x, std::size_t m, std::size_t columns, bool rounded) : x_(x), m_(m) {
    if (rounded) rounded_.emplace(x, m, columns, 0.0f);
  }
  void multiply(const Layer& layer, float* y, std::size_t step, bool add = false) const {
    const Output to{y, step, layer.bias, add};
    if (rounded_) {
      layer.matrix->multiply(*rounded_, to);
    } else {
      layer.matrix->multiply(x_, m_, to);
    }
  }

 private:
  const float* x_;
  std::size_t m_;
  std::optional<Rounded> rounded_;
};

// Calls body(first, last) for pieces of n things that cost so many nanoseconds each: none is worth a thread below some
// tens of microseconds.
template <typename Body>
void in_pieces(std::size_t n, std::size_t cost, Body body) {
  const std::size_t chunk = std::max<std::size_t>(1, 50000 / std::max<std::size_t>(cost, 1));
  parallel((n + chunk - 1) / chunk, [&](std::ptrdiff_t piece) {
    body(piece * chunk, std::min(n, (piece + 1) * chunk));
  });
}

inline std::size_t whole_lanes(std::size_t n) { return (n + 15) / 16 * 16; }

}  // namespace tercile
