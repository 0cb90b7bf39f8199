// The kernels of NEON, with its instruction that adds four products of bytes at once.
#define TERCILE_TARGET packed_dotprod
#include "../kernels/hadamard.hpp"
#include "../kernels/packed_neon.hpp"
#include "../kernels/packed_dots.hpp"
#include "../kernels/packed_tiles.hpp"

namespace tercile {
using namespace packed_dotprod;
const PackedKernels packed_kernels_dotprod = {
    "dotprod",   true,           codes_of_row, values_of_row,   scales_of_row,  arrange_floats,
    arrange_signed, dot_floats,     dot_wholes,   dot_lanes,       sum_bytes,      round_row,
    affine,         kPanelRows,     panel_floats, multiply_floats, panel_bytes,    panel_words,
    tile_bytes,     multiply_bytes, finish,       read_words,      shift_in_plain, look_up_floats,
    look_up_bytes_plain, hadamard_row};
}  // namespace tercile
