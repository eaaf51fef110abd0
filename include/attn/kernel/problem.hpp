// What the engine is given: strided matrices in raw memory, numbers, and what becomes of scores.
// No Eigen, no heads, and no types of masks: those are behind functions of a tile.
#pragma once

#include <algorithm>
#include <attn/config.hpp>
#include <attn/position.hpp>

namespace attn::kernel {

/// A matrix in memory: element (i, j) lies at data[i · row_stride + j · col_stride].
template <class T>
struct strided {
  T* data = nullptr;
  index row_stride = 0;
  index col_stride = 0;

  /// Nothing where there is no memory, as in a matrix without elements.
  [[nodiscard]] T* at(index i, index j) const {
    return data == nullptr ? nullptr : data + i * row_stride + j * col_stride;
  }
  [[nodiscard]] strided from(index i, index j) const { return {at(i, j), row_stride, col_stride}; }
};

/// One head of attention, as defined at `scaled_dot_product_attention`.
template <class T>
struct problem {
  strided<const T> query;  // queries x depth
  strided<const T> key;    // keys x depth
  strided<const T> value;  // keys x value_depth
  strided<T> out;          // queries x value_depth
  strided<T> log_sum_exp;  // queries x 1, or nothing
  strided<T> weights;      // queries x keys, or nothing
  index depth = 0;
  index value_depth = 0;
  T scale = 1;
  T sink = 0;  // -inf: none
  call_shape shape;
  std::int32_t batch = 0;
  std::int32_t head = 0;
};

/// The score change that changes nothing.
struct no_change {};

/// A tile of scores, [key][lane], and where it stands. Lane w is row `row[w]` of the call; lanes
/// beyond the last row repeat it, so that no function is ever asked about a row that isn't there.
template <class T>
struct score_tile {
  T* scores;
  index lanes;
  tile place;
  const std::int32_t* row;
  std::int32_t offset;

  [[nodiscard]] position at(index lane, std::int32_t j) const {
    return {place.batch, place.head, row[lane], row[lane] + offset, place.key + j};
  }
};

/// What a mask and a score change make of scores. Functions of whole tiles: the engine is compiled
/// once for all masks, and only these for each.
template <class T>
struct score_rules {
  const void* mask = nullptr;
  const void* change = nullptr;
  bool changes = false;  // whether there is a change
  bool biased = false;   // whether the mask has a bias
  coverage (*cover)(const void* mask, const tile& t) = nullptr;
  bool (*visible)(const void* mask, const position& at) = nullptr;
  /// s = change(s)
  void (*change_scores)(const score_rules& rules, const score_tile<T>& t) = nullptr;
  /// s = bias, or 0 without one, and -inf where the mask hides: what is added to a score.
  void (*write_mask)(const score_rules& rules, const score_tile<T>& t) = nullptr;
};

/// Vectors of rows that a block has at most: their accumulators fill the registers.
inline constexpr int vectors_a_block = 3;

/// How the rows of a call are dealt out to blocks: as many vectors of rows to each, and where a
/// single vector would be left for the last, which keeps a core half busy, it gets one from the
/// block before.
struct row_blocks {
  index rows = 0;
  index lanes = 1;  // rows in a vector

  [[nodiscard]] index count() const { return (vectors() + vectors_a_block - 1) / vectors_a_block; }
  [[nodiscard]] index start(index block) const {
    const bool shared = vectors() % vectors_a_block == 1 && block > 0 && block == count() - 1;
    return std::min((vectors_a_block * block - (shared ? 1 : 0)) * lanes, rows);
  }
  [[nodiscard]] index size(index block) const { return start(block + 1) - start(block); }

 private:
  [[nodiscard]] index vectors() const { return (rows + lanes - 1) / lanes; }
};

/// Memory for the engine starts at a multiple of this many bytes.
inline constexpr std::size_t workspace_alignment = 64;

}  // namespace attn::kernel
