#define TERCILE_TARGET avx2
#include "target.hpp"

namespace tercile {
const Kernels kernels_avx2 = TERCILE_KERNELS("avx2");
}
