#define TERCILE_TARGET packed_plain
#include "../kernels/between.hpp"
#include "../kernels/hadamard.hpp"
#include "../kernels/packed_panels.hpp"
#include "../kernels/packed_plain.hpp"

namespace tercile {
using namespace packed_plain;
const PackedKernels packed_kernels_plain = {
    "plain",         false,        codes_plain, values_plain, scales_plain,   arrange_plain,
    arrange_bytes_plain, dot_floats_plain, dot_wholes_plain, dot_lanes, sum_bytes, round_row,
    affine,          kPanelRows,   panel_floats, multiply_floats, nullptr,    nullptr,
    nullptr,         nullptr,      finish,      read_words,      shift_in_plain, look_up_floats, look_up_bytes_plain,
    hadamard_row};
const BetweenKernels between_kernels_plain = {layer_norm, rms_norm, gelu, gate, turn, attend};
}  // namespace tercile
