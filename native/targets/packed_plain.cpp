#define TERCILE_TARGET packed_plain
#include "../kernels/packed_panels.hpp"
#include "../kernels/packed_plain.hpp"

namespace tercile {
using namespace packed_plain;
const PackedKernels packed_kernels_plain = {
    "plain",      codes_plain, values_plain,    arrange_plain, dot_floats_plain, dot_wholes_plain, dot_lanes,
    round_row,    kPanelRows,  panel_floats,    multiply_floats, nullptr,        nullptr,          shift_in_plain,
    look_up_floats_plain, look_up_bytes_plain};
}  // namespace tercile
