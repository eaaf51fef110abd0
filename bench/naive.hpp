// Attention of one head as a user of Eigen would write it: the baseline.
#pragma once

#include <cstddef>

namespace bench {

/// Which keys a query sees, the last one standing at the last key, and what is added to scores.
template <class Scalar>
struct naive_mask {
  bool causal = false;
  std::ptrdiff_t left = -1;      // so many keys before its own are seen; -1: all
  const Scalar* bias = nullptr;  // queries x keys
};

/// Row-major, without gaps; Scalar is float or double. Pointers only: the Eigen behind it is built
/// with other flags, so that its matrices must not meet those of the rest of the program.
template <class Scalar>
void naive_attention(const Scalar* query, const Scalar* key, const Scalar* value, Scalar* out,
                     std::ptrdiff_t queries, std::ptrdiff_t keys, std::ptrdiff_t width,
                     const naive_mask<Scalar>& mask);

}  // namespace bench
