// The machine's limit for what attention mostly does: fused multiply-adds, independent of each
// other and of memory, in the widest instruction set that runs here (or a lower one, where the
// environment variable ATTN_INSTRUCTION_SET names one).
#pragma once

#include <cstddef>
#include <string_view>

namespace bench {

/// The instruction set that `fma_peak` uses: avx512, avx2, neon or portable.
std::string_view fma_instruction_set();

/// FLOP/s of one thread, two a multiply-add; measured anew by each call, which takes a few
/// milliseconds, since clocks drift. Scalar is float or double.
template <class Scalar>
double fma_peak();

/// The sum of n numbers, n a multiple of 128, as fast as they can be read.
float sum(const float* first, std::ptrdiff_t n);

}  // namespace bench
