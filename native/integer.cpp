// Convolutions and sums on integers alone, image by image.
#include <cstring>
#include <stdexcept>
#include <vector>

#include "bind.hpp"
#include "cpu.hpp"
#include "parallel.hpp"

namespace tercile {
namespace {

// A picture widened to int16, with the code of zero around it: a filter then reads whole runs of it, one a row.
struct Padded {
  std::size_t height, width, channels, padding;
  std::vector<std::int16_t> values;

  Padded(std::size_t height, std::size_t width, std::size_t channels, std::size_t padding, std::uint8_t zero)
      : height(height), width(width), channels(channels), padding(padding),
        values((height + 2 * padding) * (width + 2 * padding) * channels, zero) {}

  const std::int16_t* at(std::size_t y, std::size_t x) const {
    return values.data() + (y * (width + 2 * padding) + x) * channels;
  }

  void fill(const std::uint8_t* image) {
    for (std::size_t y = 0; y < height; ++y, image += width * channels) {
      std::int16_t* to = const_cast<std::int16_t*>(at(y + padding, padding));
      for (std::size_t i = 0; i < width * channels; ++i) to[i] = image[i];
    }
  }
};

void integer_convolution(Array<const std::uint8_t, 4> x, Array<const std::int16_t, 2> weight,
                         Array<const std::int32_t, 1> bias, Array<const std::int32_t, 1> multiplier,
                         Array<const std::int32_t, 1> shift, std::pair<int, int> kernel, int stride, int padding,
                         int x_zero, int zero, int low, int high, Array<std::uint8_t, 4> out) {
  const std::size_t filters = weight.shape(0), images = x.shape(0);
  if (bias.size() != filters || multiplier.size() != filters || shift.size() != filters)
    throw std::invalid_argument("bias, multiplier and shift need one number a filter");
  const std::size_t rows = out.shape(1), places = out.shape(2);
  if (stride < 1) throw std::invalid_argument("stride must be at least 1");
  const std::ptrdiff_t across = (std::ptrdiff_t(x.shape(2)) + 2 * padding - kernel.second) / stride + 1;
  const std::ptrdiff_t down = (std::ptrdiff_t(x.shape(1)) + 2 * padding - kernel.first) / stride + 1;
  const std::size_t columns = weight.shape(1), run = std::size_t(kernel.second) * x.shape(3);
  if (kernel.first < 1 || kernel.second < 1 || padding < 0 || out.shape(0) != images || out.shape(3) != filters || std::ptrdiff_t(rows) != down ||
      std::ptrdiff_t(places) != across ||
      weight.shape(1) < x.shape(3) * std::size_t(kernel.first) * std::size_t(kernel.second))
    throw std::invalid_argument("shapes of x, weight and out do not fit each other");
  for (std::size_t j = 0; j < filters; ++j)
    if (shift.data()[j] < 1 || shift.data()[j] > 62) throw std::invalid_argument("shift must lie between 1 and 62");
  const Kernels& k = kernels();
  parallel(std::ptrdiff_t(images), [&](std::ptrdiff_t image) {
    Padded padded(x.shape(1), x.shape(2), x.shape(3), std::size_t(padding), std::uint8_t(x_zero));
    padded.fill(x.data() + std::size_t(image) * x.shape(1) * x.shape(2) * x.shape(3));
    std::vector<std::int16_t> seen(places * columns, 0);  // one row of places, a filter's worth each
    std::vector<std::int32_t> sums(places * filters);
    std::uint8_t* to = out.data() + std::size_t(image) * rows * places * filters;
    for (std::size_t y = 0; y < rows; ++y, to += places * filters) {
      for (std::size_t i = 0; i < std::size_t(kernel.first); ++i)
        for (std::size_t place = 0; place < places; ++place)
          std::memcpy(seen.data() + place * columns + i * run, padded.at(y * stride + i, place * stride), 2 * run);
      k.integer_products(seen.data(), weight.data(), places, filters, columns, sums.data());
      k.requantize(sums.data(), places, filters, bias.data(), multiplier.data(), shift.data(), zero, low, high, to);
    }
  });
}

void integer_products(Array<const std::int16_t, 2> x, Array<const std::int16_t, 2> weight, Array<std::int32_t, 2> out) {
  if (x.shape(1) != weight.shape(1) || out.shape(0) != x.shape(0) || out.shape(1) != weight.shape(0))
    throw std::invalid_argument("shapes of x, weight and out do not fit each other");
  kernels().integer_products(x.data(), weight.data(), x.shape(0), weight.shape(0), x.shape(1), out.data());
}

void integer_sum(Array<const std::uint8_t, 1> a, Array<const std::uint8_t, 1> b, int a_zero, int b_zero,
                 int a_multiplier, int b_multiplier, int shift, int zero, int low, int high,
                 Array<std::uint8_t, 1> out) {
  if (a.size() != b.size() || a.size() != out.size()) throw std::invalid_argument("a, b and out must be as long");
  if (shift < 1 || shift > 30) throw std::invalid_argument("shift must lie between 1 and 30");
  kernels().integer_sum(a.data(), b.data(), a.size(), a_zero, b_zero, a_multiplier, b_multiplier, shift, zero, low, high,
                        out.data());
}

}  // namespace

void bind_integer(nb::module_& module) {
  using namespace nb::literals;
  const auto free = nb::call_guard<nb::gil_scoped_release>();
  module.def("integer_convolution", &integer_convolution, "x"_a, "weight"_a, "bias"_a, "multiplier"_a, "shift"_a,
             "kernel"_a, "stride"_a, "padding"_a, "x_zero"_a, "zero"_a, "low"_a, "high"_a, "out"_a.noconvert(), free);
  module.def("integer_products", &integer_products, "x"_a, "weight"_a, "out"_a.noconvert(), free);
  module.def("integer_sum", &integer_sum, "a"_a, "b"_a, "a_zero"_a, "b_zero"_a, "a_multiplier"_a, "b_multiplier"_a,
             "shift"_a, "zero"_a, "low"_a, "high"_a, "out"_a.noconvert(), free);
}

}  // namespace tercile
