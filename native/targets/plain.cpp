#define TERCILE_TARGET plain
#include "target.hpp"

namespace tercile {
const Kernels kernels_plain = TERCILE_KERNELS("plain");
}
