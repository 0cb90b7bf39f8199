// A block of a Llama: keys and values of what was read before are kept beside it.
#include <cmath>
#include <stdexcept>

#include "block.hpp"

namespace tercile {
namespace {

using Vector = Array<const float, 1>;
using Buffer = std::vector<float>;

class LlamaBlock {
 public:
  // layers: query, key, value, output, gate, up, down; biases of each, empty where there is none; gains of two norms.
  LlamaBlock(std::vector<const PackedLayer*> layers, std::vector<Vector> biases, std::vector<Vector> norms,
             std::size_t width_of_head, float epsilon)
      : biases_(biases), norms_(norms), wide_(width_of_head), epsilon_(epsilon) {
    if (layers.size() != 7 || biases.size() != 7 || norms.size() != 2)
      throw std::invalid_argument("a block has seven layers, seven biases and two norms");
    for (std::size_t i = 0; i < 7; ++i) {
      const std::size_t size = biases[i].shape(0);
      if (size && size != layers[i]->rows()) throw std::invalid_argument("a bias must have one value a row");
      layers_.push_back({layers[i], size ? biases[i].data() : nullptr});
    }
    width_ = layers[3]->rows(), mixed_ = layers[3]->columns(), kept_ = layers[1]->rows(), inner_ = layers[4]->rows();
    const auto is = [&](std::size_t i, std::size_t rows, std::size_t columns) {
      if (layers[i]->rows() != rows || layers[i]->columns() != columns)
        throw std::invalid_argument("layers do not fit each other");
    };
    is(0, mixed_, width_), is(1, kept_, width_), is(2, kept_, width_);
    is(4, inner_, width_), is(5, inner_, width_), is(6, width_, inner_);
    if (wide_ < 16 || wide_ % 16 || kept_ % wide_ || mixed_ % kept_)
      throw std::invalid_argument("a head must be a multiple of 16 wide, and heads must share keys evenly");
    for (const Vector& norm : norms)
      if (norm.shape(0) != width_) throw std::invalid_argument("a norm must have one value a channel");
  }

  std::size_t length() const { return length_; }

  // Reads on: x, (count, width), becomes what the block gives; cosine and sine are those of (count, head width / 2).
  void run(Array<float, 2> x, Array<const float, 2> cosine, Array<const float, 2> sine) {
    const std::size_t m = x.shape(0), half = wide_ / 2;
    if (x.shape(1) != width_ || cosine.shape(0) != m || sine.shape(0) != m || cosine.shape(1) != half ||
        sine.shape(1) != half)
      throw std::invalid_argument("x must be (count, width), cosine and sine (count, head width / 2)");
    const BetweenKernels& k = between_kernels();
    Buffer normal(m * width_), query(m * mixed_), key(m * kept_), value(m * kept_), mixed(m * mixed_);
    k.rms_norm(x.data(), m, width_, norms_[0].data(), epsilon_, normal.data());
    {
      const Activations read(normal.data(), m, width_);
      layers_[0].multiply(read, query.data(), mixed_);
      layers_[1].multiply(read, key.data(), kept_);
      layers_[2].multiply(read, value.data(), kept_);
    }
    for (std::size_t t = 0; t < m; ++t) {
      k.turn(query.data() + t * mixed_, mixed_ / wide_, wide_, cosine.data() + t * half, sine.data() + t * half);
      k.turn(key.data() + t * kept_, kept_ / wide_, wide_, cosine.data() + t * half, sine.data() + t * half);
    }
    keep(key, value, m);
    attend(query, m, mixed);
    layers_[3].multiply(Activations(mixed.data(), m, mixed_), x.data(), width_, true);
    k.rms_norm(x.data(), m, width_, norms_[1].data(), epsilon_, normal.data());
    Buffer gate(m * inner_), up(m * inner_);
    {
      const Activations read(normal.data(), m, width_);
      layers_[4].multiply(read, gate.data(), inner_);
      layers_[5].multiply(read, up.data(), inner_);
    }
    in_pieces(m, inner_, [&](std::size_t first, std::size_t last) {
      k.gate(gate.data() + first * inner_, up.data() + first * inner_, (last - first) * inner_);
    });
    layers_[6].multiply(Activations(gate.data(), m, inner_), x.data(), width_, true);
  }

 private:
  // Keys are kept turned: (kept channels, room).
  void keep(const Buffer& key, const Buffer& value, std::size_t m) {
    const std::size_t total = length_ + m;
    if (total > room_) {
      const std::size_t room = whole_lanes(std::max<std::size_t>({64, 2 * room_, total}));
      Buffer grown(kept_ * room);
      for (std::size_t d = 0; d < kept_; ++d)
        for (std::size_t t = 0; t < length_; ++t) grown[d * room + t] = keys_[d * room_ + t];
      keys_.swap(grown);
      room_ = room;
    }
    for (std::size_t d = 0; d < kept_; ++d)
      for (std::size_t t = 0; t < m; ++t) keys_[d * room_ + length_ + t] = key[t * kept_ + d];
    values_.insert(values_.end(), value.begin(), value.end());
    length_ = total;
  }

  void attend(const Buffer& query, std::size_t m, Buffer& mixed) const {
    const BetweenKernels& k = between_kernels();
    const std::size_t heads = mixed_ / wide_, sharing = mixed_ / kept_;
    in_pieces(heads, m * length_ * wide_ / 8, [&](std::size_t first, std::size_t last) {
      Buffer space(4 * room_);
      for (std::size_t head = first; head < last; ++head) {
        const std::size_t at = head / sharing * wide_;
        k.attend({query.data() + head * wide_, m, mixed_, keys_.data() + at * room_, length_, room_, values_.data() + at,
                  kept_, wide_, 1.0f / std::sqrt(static_cast<float>(wide_)), nullptr, 0, true,
                  mixed.data() + head * wide_, mixed_},
                 space.data());
      }
    });
  }

  std::vector<Biased> layers_;
  std::vector<Vector> biases_, norms_;
  std::size_t wide_, width_, mixed_, kept_, inner_;
  float epsilon_;
  Buffer keys_, values_;
  std::size_t room_ = 0, length_ = 0;
};

}  // namespace

void bind_llama_block(nb::module_& module) {
  using namespace nb::literals;
  nb::class_<LlamaBlock>(module, "LlamaBlock")
      .def(nb::init<std::vector<const PackedLayer*>, std::vector<Vector>, std::vector<Vector>, std::size_t, float>(),
           "layers"_a, "biases"_a, "norms"_a, "head_width"_a, "epsilon"_a, nb::keep_alive<1, 2>())
      .def_prop_ro("length", &LlamaBlock::length, "Tokens read so far.")
      .def("run", &LlamaBlock::run, "x"_a.noconvert(), "cosine"_a, "sine"_a, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace tercile
