#define TERCILE_TARGET packed_avx512
#include "../kernels/between.hpp"
#include "../kernels/hadamard.hpp"
#include "../kernels/packed_avx512_dots.hpp"
#include "../kernels/packed_avx512_order.hpp"
#include "../kernels/packed_avx512_panels.hpp"
#include "../kernels/packed_avx512_trellis.hpp"

namespace tercile {
using namespace packed_avx512;
const PackedKernels packed_kernels_avx512 = {
    "avx512",        true,         codes_avx512, values_avx512, scales_avx512, arrange_avx512,
    arrange_bytes_avx512, dot_floats_avx512, dot_wholes_avx512, dot_lanes, sum_bytes_avx512, round_row,
    affine,          kPanelRows,   panel_floats_avx512, multiply_floats, panel_bytes_avx512, panel_words_avx512,
    tile_bytes_avx512, multiply_bytes_avx512, finish,      read_words, shift_in_avx512, look_up_floats,
    look_up_bytes_avx512,
    hadamard_row};
const BetweenKernels between_kernels_avx512 = {layer_norm, rms_norm, gelu, gate, turn, attend};
}  // namespace tercile
