// What a stored matrix is made of, and its rows.
#include "matrix.hpp"

#include <stdexcept>
#include <string>

#include "../cpu.hpp"
#include "../parallel.hpp"
#include "decoder.hpp"

namespace tercile {

const PackedKernels& packed_kernels() {
  static const PackedKernels& chosen = []() -> const PackedKernels& {
#if defined(__x86_64__) || defined(_M_X64)
    const std::string name = kernels().name;
    if (name == "avx512" && __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni") &&
        __builtin_cpu_supports("gfni"))
      return packed_kernels_avx512;
    if (name == "avxvnni") return packed_kernels_avxvnni;
    if (name != "plain") return packed_kernels_avx2;
#elif defined(__aarch64__)
    const std::string name = kernels().name;
    if (name == "dotprod") return packed_kernels_dotprod;
    if (name == "neon") return packed_kernels_neon;
#endif
    return packed_kernels_plain;
  }();
  return chosen;
}

Rounded::Rounded(const float* x, std::size_t m, std::size_t columns, float scale, const Rotation* rotation)
    : m(m), columns(columns), step((columns + 511) / 512 * 512), values(m * step), scales(m) {
  // Rows of a whole number of 512 bytes, as the widest run has codes.
  in_chunks(m, columns, [&](std::size_t first, std::size_t last) {
    std::vector<float> turned(rotation ? 2 * columns : 0);
    for (std::size_t t = first; t < last; ++t) {
      const float* row = x + t * columns;
      if (rotation) {
        rotation->turn(row, turned.data(), turned.data() + columns);
        row = turned.data();
      }
      scales[t] = packed_kernels().round_row(row, columns, scale, values.data() + t * step);
    }
  });
}

PackedMatrix::PackedMatrix(Array<const std::uint32_t, 2> words, std::size_t rows, std::size_t columns, int bits,
                           Array<const float, 1> table, std::optional<Array<const std::uint8_t, 1>> whole, int base,
                           float unit, bool linear, std::optional<Array<const float, 2>> scale,
                           std::optional<Array<const std::uint16_t, 2>> half,
                           std::optional<Array<const float, 2>> offset, std::size_t tall, std::size_t wide, int memory,
                           std::optional<Array<const std::uint8_t, 1>> row_bits, std::size_t height)
    : words_(words), table_(table), whole_(whole), scale_(scale), half_(half), offset_(offset) {
  if (rows < 1 || columns < 1 || tall < 1 || wide < 1) throw std::invalid_argument("a packed matrix can't be empty");
  w_ = {};
  w_.planes = 1;
  w_.words = reinterpret_cast<const std::uint8_t*>(words.data());
  w_.row_bytes = 4 * words.shape(1);
  w_.rows = rows, w_.columns = columns, w_.bits = bits;
  w_.base = base, w_.unit = unit, w_.linear = linear;
  w_.tall = tall, w_.wide = std::min(wide, columns), w_.across = (columns + w_.wide - 1) / w_.wide;
  const std::size_t down = (rows + tall - 1) / tall;
  const auto check = [&](bool there, std::size_t r, std::size_t c, const char* name) {
    if (there && (r != down || c != w_.across)) throw std::invalid_argument(std::string(name) + " must have one a block");
  };
  if (scale.has_value() == half.has_value()) throw std::invalid_argument("scale must be given as float32 or as float16");
  check(scale.has_value(), scale ? scale->shape(0) : 0, scale ? scale->shape(1) : 0, "scale");
  check(half.has_value(), half ? half->shape(0) : 0, half ? half->shape(1) : 0, "scale");
  check(offset.has_value(), offset ? offset->shape(0) : 0, offset ? offset->shape(1) : 0, "offset");
  w_.scale = scale ? scale->data() : nullptr;
  w_.half_scale = half ? half->data() : nullptr;
  w_.offset = offset ? offset->data() : nullptr;
  w_.table = table.data();
  w_.whole = whole ? whole->data() : nullptr;
  const std::size_t states = memory ? std::size_t{1} << memory : 256;
  if (memory < 0 || memory > 16 || table.shape(0) != states) throw std::invalid_argument("table has the wrong length");
  if (whole && whole->shape(0) != states) throw std::invalid_argument("whole has the wrong length");
  if (memory) {
    if (!whole || !row_bits || row_bits->shape(0) != rows || height < 1)
      throw std::invalid_argument("a trellis needs row_bits, height and whole");
    trellis_ = std::make_unique<TrellisRows>(memory, height, row_bits->data(), rows, columns, bytes());
  } else {
    if (bits < 1 || bits > 8) throw std::invalid_argument("bits must be 1 to 8");
    if (words.shape(0) != rows || w_.row_bytes * 8 < columns * bits) throw std::invalid_argument("words are too short");
    find_lanes();
  }
}

std::size_t PackedMatrix::nbytes() const {
  return lanes_.size() * 4 + (trellis_ ? trellis_->bits.size() + 8 * trellis_->start.size() : 0);
}

void PackedMatrix::find_lanes() {
  const auto fits = [&](int planes) { return w_.across == 1 || w_.wide % (4 * planes) == 0; };
  const bool divides = w_.bits == 1 || w_.bits == 2 || w_.bits == 4;
  w_.planes = packed_kernels().by_plane && divides && fits(8 / w_.bits) ? 8 / w_.bits : 1;
  const std::size_t run = kRun * w_.planes, lane = run / 16;
  if (w_.across == 1 || w_.wide % run == 0 || !fits(w_.planes)) return;
  for (std::size_t first = 0; first < w_.columns; first += run)
    for (std::size_t i = 0; i < 16; ++i)
      lanes_.push_back(static_cast<std::int32_t>((first + i * lane) / w_.wide - first / w_.wide));
  w_.lane_block = lanes_.data();
}

void PackedMatrix::rows(const std::int64_t* ids, std::size_t n, float* out) const {
  const std::size_t chunk = std::max<std::size_t>(1, (1 << 14) / w_.columns);
  parallel((n + chunk - 1) / chunk, [&](std::ptrdiff_t piece) {
    Decoder decoder(*this, 0, w_.columns);
    for (std::size_t i = piece * chunk; i < std::min(n, (piece + 1) * chunk); ++i)
      decoder.floats(ids[i], out + i * w_.columns);
  });
}

}  // namespace tercile
