// Picks the kernels at run time, once: the best the processor has, or what TERCILE_KERNELS names.
#pragma once
#include <vector>

#include "kernels.hpp"

namespace tercile {

// The kernels in use. Throws std::runtime_error when TERCILE_KERNELS names a set that this processor lacks.
const Kernels& kernels();

// All sets that this processor can run, plain first.
std::vector<const Kernels*> available_kernels();

// Worker threads: TERCILE_THREADS, else OMP_NUM_THREADS, else the number of processors.
int threads();

}  // namespace tercile
