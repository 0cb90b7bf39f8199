#define TERCILE_TARGET packed_avx2
#include "../kernels/between.hpp"
#include "../kernels/hadamard.hpp"
#include "../kernels/packed_avx2.hpp"

namespace tercile {
using namespace packed_avx2;
const PackedKernels packed_kernels_avx2 = {
    "avx2",          false,        codes_avx2,  values_avx2,  scales_plain,   arrange_plain,
    arrange_bytes_plain, dot_floats_plain, dot_wholes_avx2, dot_lanes, sum_bytes, round_row,
    affine,          kPanelRows,   panel_floats, multiply_floats, nullptr,    nullptr,
    nullptr,         nullptr,      finish,      read_words,      shift_in_plain, look_up_floats, look_up_bytes_plain,
    hadamard_row};
const BetweenKernels between_kernels_avx2 = {layer_norm, rms_norm, gelu, gate, turn, attend};
}  // namespace tercile
