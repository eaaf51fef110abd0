// Whether matrices in memory share elements: results must not be written where inputs are read.
#pragma once

#include <algorithm>
#include <attn/heads.hpp>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <iterator>
#include <utility>

namespace attn::inline ATTN_ABI::detail {

/// The bytes of a matrix with strides: runs of `run` bytes each, `step` bytes apart.
struct footprint {
  std::uintptr_t begin;
  std::uintptr_t end;
  std::uintptr_t step;  // 0: a single run
  std::uintptr_t run;
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
inline bool may_overlap(footprint a, footprint b) {
  if (a.begin >= b.end || b.begin >= a.end) return false;
  if (a.step == 0 && a.run <= b.step) a.step = b.step;  // a single run may lie between two
  if (b.step == 0 && b.run <= a.step) b.step = a.step;
  if (a.step != b.step || a.step == 0 || a.run > a.step || b.run > b.step) return true;
  const std::uintptr_t from_a_to_b = (b.begin - a.begin) % a.step;
  const std::uintptr_t from_b_to_a = (a.begin - b.begin) % a.step;
  return a.begin <= b.begin ? from_a_to_b < a.run || from_a_to_b + b.run > a.step
                            : from_b_to_a < b.run || from_b_to_a + a.run > a.step;
}

/// Whether two elements of a matrix may share memory; `a` is its footprint.
template <class M>
bool overlaps_itself(const M& m, const footprint& a) {
  if (m.size() == 0) return false;
  return (m.rows() > 1 && m.rowStride() == 0) || (m.cols() > 1 && m.colStride() == 0) ||
         (a.step != 0 && a.run > a.step);
}

/// The extents and strides of a view, those that can be walked as one joined, the widest first.
struct walk {
  index count[4] = {1, 1, 1, 1};
  index step[4] = {0, 0, 0, 0};
  int size = 0;
  bool repeats = false;  // whether elements lie on one another
};

template <class T>
walk walk_of(const heads_view<T>& view) {
  const heads_shape& n = view.shape();
  const heads_strides& by = view.strides();
  std::pair<index, index> dims[] = {{std::abs(by.batch), n.batch},
                                    {std::abs(by.head), n.heads},
                                    {std::abs(by.row), n.length},
                                    {std::abs(by.col), n.width}};
  std::sort(std::begin(dims), std::end(dims), std::greater<>());
  walk w;
  for (const auto& [step, count] : dims) {
    if (count == 1) continue;
    w.repeats = w.repeats || step == 0;
    if (step == 0) continue;
    if (w.size > 0 && w.step[w.size - 1] == step * count) {
      w.count[w.size - 1] *= count;
      w.step[w.size - 1] = step;
    } else {
      w.count[w.size] = count;
      w.step[w.size++] = step;
    }
  }
  index span = 1;
  for (int i = w.size - 1; i >= 0; --i) {
    w.repeats = w.repeats || w.step[i] < span;
    span += w.step[i] * (w.count[i] - 1);
  }
  return w;
}

/// All bytes from the first to the last of a view.
template <class T>
footprint range_of(const heads_view<T>& view) {
  if (view.shape().size() == 0) return {};
  const heads_shape& n = view.shape();
  const heads_strides& by = view.strides();
  index low = 0, high = 1;
  for (const index last : {by.batch * (n.batch - 1), by.head * (n.heads - 1),
                           by.row * (n.length - 1), by.col * (n.width - 1)}) {
    (last < 0 ? low : high) += last;
  }
  const auto at = [&](index element) {
    return reinterpret_cast<std::uintptr_t>(view.data()) +
           static_cast<std::uintptr_t>(element) * sizeof(T);
  };
  return {at(low), at(high), 0, at(high) - at(low)};
}

/// Exact where the view is at most runs at equal distances; else all bytes from first to last.
template <class T>
footprint footprint_of(const heads_view<T>& view) {
  footprint bytes = range_of(view);
  if (bytes.run == 0) return bytes;
  const walk w = walk_of(view);
  const bool of_runs = w.size == 2 && w.step[1] == 1, of_numbers = w.size == 1 && w.step[0] > 1;
  if (of_runs || of_numbers) {
    bytes.step = static_cast<std::uintptr_t>(w.step[0]) * sizeof(T);
    bytes.run = static_cast<std::uintptr_t>(w.count[1]) * sizeof(T);
  }
  return bytes;
}

template <class T>
bool overlaps_itself(const heads_view<T>& view, const footprint&) {
  return view.shape().size() != 0 && walk_of(view).repeats;
}

}  // namespace attn::inline ATTN_ABI::detail
