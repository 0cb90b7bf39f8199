// What blocks of transformers share.
#pragma once
#include <vector>

#include "../parallel.hpp"
#include "between.hpp"
#include "layer.hpp"

namespace tercile {

void bind_encoder(nb::module_& module);
void bind_llama_block(nb::module_& module);

// A layer with a bias, or without one.
struct Biased {
  const PackedLayer* layer;
  const float* bias;

  void multiply(const Activations& x, float* y, std::size_t step, bool add = false) const {
    layer->multiply(x, {y, step, bias, add});
  }
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
