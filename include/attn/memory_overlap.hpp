// Whether matrices in memory share elements: results must not be written where inputs are read.
#pragma once

#include <algorithm>
#include <attn/config.hpp>
#include <cstdint>
#include <cstdlib>
#include <utility>

namespace attn::detail {

/// The bytes of a matrix with strides: runs of `run` bytes each, `step` bytes apart.
struct footprint {
  std::uintptr_t begin = 0;
  std::uintptr_t end = 0;
  std::uintptr_t step = 0;  // 0: a single run
  std::uintptr_t run = 0;
};

template <class M>
footprint footprint_of(const M& m) {
  if (m.size() == 0) return {};
  index inner = m.rows() == 1 ? 1 : std::abs(m.rowStride());
  index outer = m.cols() == 1 ? 1 : std::abs(m.colStride());
  index inner_size = m.rows();
  index outer_size = m.cols();
  if (inner > outer || (inner_size == 1 && outer == 1)) {
    std::swap(inner, outer);
    std::swap(inner_size, outer_size);
  }
  constexpr auto element = sizeof(typename M::Scalar);
  const auto bytes = [](index n) { return static_cast<std::uintptr_t>(n) * element; };
  const index lowest = std::min<index>(0, (m.rows() - 1) * m.rowStride()) +
                       std::min<index>(0, (m.cols() - 1) * m.colStride());
  const auto begin = reinterpret_cast<std::uintptr_t>(m.data() + lowest);
  const std::uintptr_t run = bytes((inner_size - 1) * inner + 1);
  const std::uintptr_t step = outer_size == 1 ? 0 : bytes(outer);
  return {begin, begin + run + step * static_cast<std::uintptr_t>(outer_size - 1), step, run};
}

/// Whether two matrices may share a byte. Exact where neither is interleaved with the other, and
/// where both have the same step, as heads side by side in one matrix have.
inline bool may_overlap(const footprint& a, const footprint& b) {
  if (a.begin >= b.end || b.begin >= a.end) return false;
  if (a.step != b.step || a.step == 0 || a.run > a.step || b.run > b.step) return true;
  const std::uintptr_t from_a_to_b = (b.begin - a.begin) % a.step;
  const std::uintptr_t from_b_to_a = (a.begin - b.begin) % a.step;
  return a.begin <= b.begin ? from_a_to_b < a.run || from_a_to_b + b.run > a.step
                            : from_b_to_a < b.run || from_b_to_a + a.run > a.step;
}

/// Whether two elements of a matrix may share memory.
template <class M>
bool overlaps_itself(const M& m) {
  if (m.size() == 0) return false;
  const footprint a = footprint_of(m);
  return (m.rows() > 1 && m.rowStride() == 0) || (m.cols() > 1 && m.colStride() == 0) ||
         (a.step != 0 && a.run > a.step);
}

}  // namespace attn::detail
