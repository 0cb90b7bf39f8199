// Where four products of bytes can't be added at once, batches are faster in floats.
#define TERCILE_TARGET packed_neon
#include "../kernels/hadamard.hpp"
#include "../kernels/packed_neon.hpp"
#include "../kernels/packed_dots.hpp"

namespace tercile {
using namespace packed_neon;
const PackedKernels packed_kernels_neon = {
    "neon",      true,           codes_of_row, values_of_row,   scales_of_row,  arrange_floats,
    arrange_signed, dot_floats,     dot_wholes,   dot_lanes,       sum_bytes,      round_row,
    affine,         kPanelRows,     panel_floats, multiply_floats, nullptr,        nullptr,
    nullptr,        nullptr,        finish,       read_words,      shift_in_plain, look_up_floats,
    look_up_bytes_plain, hadamard_row};
}  // namespace tercile
