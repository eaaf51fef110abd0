// Partial results over disjoint keys, put together.
#pragma once

#include <attn/kernel/problem.hpp>
#include <cmath>
#include <limits>

namespace attn::inline ATTN_ABI::kernel {

/// What the chunks of one row add up to, with the sink: the online softmax once more.
/// Chunk n of it lies at out + n · step, highest + n · step and sum + n · step.
template <class T>
void merge_chunks(const T* out, const T* highest, const T* sum, index chunks, index step,
                  const problem<T>& p, index row) {
  constexpr T lowest = -std::numeric_limits<T>::infinity();
  T most = p.sink;
  for (index n = 0; n < chunks; ++n) {
    const T m = highest[n * step];
    most = m > most ? m : most;
  }
  T total = p.sink > lowest ? std::exp(p.sink - most) : T(0);
  const auto part = [&](index n) {
    return sum[n * step] == T(0) ? T(0) : std::exp(highest[n * step] - most) * sum[n * step];
  };
  for (index n = 0; n < chunks; ++n) total += part(n);
  for (index c = 0; c < p.value_depth; ++c) *p.out.at(row, c) = T(0);
  for (index n = 0; n < chunks; ++n) {
    if (sum[n * step] == T(0)) continue;
    const T weight = part(n) / total;
    for (index c = 0; c < p.value_depth; ++c) *p.out.at(row, c) += weight * out[n * step + c];
  }
  if (p.log_sum_exp.data != nullptr) {
    *p.log_sum_exp.at(row, 0) = total == T(0) ? lowest : most + std::log(total);
  }
}

}  // namespace attn::inline ATTN_ABI::kernel
