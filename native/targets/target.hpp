// Included once by each target with TERCILE_TARGET set to its name: compiles every kernel for it.
#include "../kernels/distance.hpp"
#include "../kernels/hadamard.hpp"
#include "../kernels/integer.hpp"
#include "../kernels/ranges.hpp"
#include "../kernels/rounding.hpp"
#include "../kernels/solve.hpp"
#include "../kernels/trellis.hpp"

#define TERCILE_KERNELS(name)                                                                       \
  {                                                                                                 \
    name, TERCILE_TARGET::nearest, TERCILE_TARGET::solve_tile, TERCILE_TARGET::descend_tile, TERCILE_TARGET::range_errors, \
        TERCILE_TARGET::trellis_step, TERCILE_TARGET::integer_products, TERCILE_TARGET::requantize, \
        TERCILE_TARGET::integer_sum, TERCILE_TARGET::row_distances, TERCILE_TARGET::list_bounds, TERCILE_TARGET::packed_products, \
        TERCILE_TARGET::hadamard_row \
  }
