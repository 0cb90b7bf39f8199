// A block of an encoder whose norms stand behind the residual sums (BERT): attention and feed-forward in one call.
#include <cmath>
#include <stdexcept>

#include "block.hpp"

namespace tercile {
namespace {

using Vector = Array<const float, 1>;
using Buffer = std::vector<float>;

const BetweenKernels& chosen() {
#if defined(__x86_64__) || defined(_M_X64)
  const std::string name = packed_kernels().name;
  if (name == "avx512") return between_kernels_avx512;
  if (name == "avx2" || name == "avxvnni") return between_kernels_avx2;
#endif
  return between_kernels_plain;
}

class EncoderBlock {
 public:
  // layers: query, key, value, output, up, down; their biases; gain and shift of the two norms.
  EncoderBlock(std::vector<const PackedLayer*> layers, std::vector<Vector> biases, std::vector<Vector> norms,
               std::size_t heads, float epsilon)
      : biases_(biases), norms_(norms), heads_(heads), epsilon_(epsilon) {
    if (layers.size() != 6 || biases.size() != 6 || norms.size() != 4)
      throw std::invalid_argument("a block has six layers, six biases and two norms");
    for (std::size_t i = 0; i < 6; ++i) {
      if (biases[i].shape(0) != layers[i]->rows()) throw std::invalid_argument("a bias must have one value a row");
      layers_.push_back({layers[i], biases[i].data()});
    }
    width_ = layers[3]->rows(), inner_ = layers[4]->rows(), mixed_ = layers[3]->columns();
    for (std::size_t i = 0; i < 3; ++i)
      if (layers[i]->columns() != width_ || layers[i]->rows() != mixed_)
        throw std::invalid_argument("query, key and value must have the shape of the output turned round");
    if (layers[4]->columns() != width_ || layers[5]->columns() != inner_ || layers[5]->rows() != width_)
      throw std::invalid_argument("up and down must fit each other");
    for (const Vector& norm : norms)
      if (norm.shape(0) != width_) throw std::invalid_argument("a norm must have one value a channel");
    if (heads < 1 || mixed_ % (16 * heads)) throw std::invalid_argument("a head must be a multiple of 16 wide");
  }

  // x and out: (sequences * length, width); mask: (sequences, length, length), added to scores.
  void run(Array<const float, 2> x, std::size_t length, std::optional<Array<const float, 3>> mask,
           Array<float, 2> out) const {
    const std::size_t m = x.shape(0);
    if (x.shape(1) != width_ || out.shape(0) != m || out.shape(1) != width_ || length < 1 || m % length)
      throw std::invalid_argument("x and out must be (sequences * length, width)");
    if (mask && (mask->shape(0) != m / length || mask->shape(1) != length || mask->shape(2) != length))
      throw std::invalid_argument("mask must be (sequences, length, length)");
    const BetweenKernels& k = between_kernels();
    Buffer three(m * 3 * mixed_), mixed(m * mixed_), sum(m * width_), middle(m * width_), inner(m * inner_);
    const Activations read(x.data(), m, width_);
    for (std::size_t i = 0; i < 3; ++i) layers_[i].multiply(read, three.data() + i * mixed_, 3 * mixed_);
    attend(three, m, length, mask ? mask->data() : nullptr, mixed);
    layers_[3].multiply(Activations(mixed.data(), m, mixed_), sum.data(), width_);
    norm(k, sum.data(), x.data(), m, 0, middle.data());
    layers_[4].multiply(Activations(middle.data(), m, width_), inner.data(), inner_);
    in_pieces(m, inner_, [&](std::size_t first, std::size_t last) {
      k.gelu(inner.data() + first * inner_, (last - first) * inner_);
    });
    layers_[5].multiply(Activations(inner.data(), m, inner_), sum.data(), width_);
    norm(k, sum.data(), middle.data(), m, 2, out.data());
  }

 private:
  void norm(const BetweenKernels& k, const float* x, const float* residual, std::size_t m, std::size_t which,
            float* out) const {
    in_pieces(m, width_, [&](std::size_t first, std::size_t last) {
      k.layer_norm(x + first * width_, residual + first * width_, last - first, width_, norms_[which].data(),
                   norms_[which + 1].data(), epsilon_, out + first * width_);
    });
  }

  void attend(const Buffer& three, std::size_t m, std::size_t length, const float* mask, Buffer& mixed) const {
    const BetweenKernels& k = between_kernels();
    const std::size_t wide = mixed_ / heads_, step = 3 * mixed_, room = whole_lanes(length);
    in_pieces(m / length * heads_, length * length * wide / 8, [&](std::size_t first, std::size_t last) {
      Buffer keys(wide * room), space(4 * room);
      for (std::size_t i = first; i < last; ++i) {
        const std::size_t sequence = i / heads_, at = i % heads_ * wide;
        const float* from = three.data() + sequence * length * step + at;
        for (std::size_t t = 0; t < length; ++t)
          for (std::size_t d = 0; d < wide; ++d) keys[d * room + t] = from[t * step + mixed_ + d];
        k.attend({from, length, step, keys.data(), length, room, from + 2 * mixed_, step, wide,
                  1.0f / std::sqrt(static_cast<float>(wide)), mask ? mask + sequence * length * length : nullptr, length,
                  false, mixed.data() + sequence * length * mixed_ + at, mixed_},
                 space.data());
      }
    });
  }

  std::vector<Biased> layers_;
  std::vector<Vector> biases_, norms_;
  std::size_t heads_, width_, inner_, mixed_;
  float epsilon_;
};

}  // namespace

const BetweenKernels& between_kernels() {
  static const BetweenKernels& kernels = chosen();
  return kernels;
}

void bind_encoder(nb::module_& module) {
  using namespace nb::literals;
  nb::class_<EncoderBlock>(module, "EncoderBlock")
      .def(nb::init<std::vector<const PackedLayer*>, std::vector<Vector>, std::vector<Vector>, std::size_t, float>(),
           "layers"_a, "biases"_a, "norms"_a, "heads"_a, "epsilon"_a, nb::keep_alive<1, 2>())
      .def("run", &EncoderBlock::run, "x"_a, "length"_a, "mask"_a.none(), "out"_a.noconvert(),
           nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace tercile
