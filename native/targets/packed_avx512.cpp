#define TERCILE_TARGET packed_avx512
#include "../kernels/packed_avx512.hpp"

namespace tercile {
using namespace packed_avx512;
const PackedKernels packed_kernels_avx512 = {
    "avx512",     codes_avx512, values_avx512,       arrange_avx512,  dot_floats_avx512,  dot_wholes_avx512,     dot_lanes,
    round_row,    kPanelRows,   panel_floats_avx512, multiply_floats, panel_bytes_avx512, multiply_bytes_avx512,
    shift_in_avx512, look_up_floats_plain, look_up_bytes_plain};
}  // namespace tercile
