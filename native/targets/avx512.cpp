#define TERCILE_TARGET avx512
#include "target.hpp"

namespace tercile {
const Kernels kernels_avx512 = TERCILE_KERNELS("avx512");
}
