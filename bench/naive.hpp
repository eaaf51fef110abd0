// Attention of one head as a user of Eigen would write it: the baseline.
#pragma once

#include <cstddef>

namespace bench {

/// Row-major, without gaps; Scalar is float or double. Pointers only: the Eigen behind it is built
/// with other flags, so that its matrices must not meet those of the rest of the program.
template <class Scalar>
void naive_attention(const Scalar* query, const Scalar* key, const Scalar* value, Scalar* out,
                     std::ptrdiff_t queries, std::ptrdiff_t keys, std::ptrdiff_t width,
                     bool causal);

}  // namespace bench
