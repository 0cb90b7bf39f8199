#define TERCILE_TARGET packed_avx2
#include "../kernels/packed_avx2.hpp"

namespace tercile {
using namespace packed_avx2;
const PackedKernels packed_kernels_avx2 = {
    "avx2",       codes_avx2, values_avx2,     arrange_plain, dot_floats_plain, dot_wholes_avx2, dot_lanes,
    round_row,    kPanelRows, panel_floats,    multiply_floats, nullptr,        nullptr,         shift_in_plain,
    look_up_floats_plain, look_up_bytes_plain};
}  // namespace tercile
