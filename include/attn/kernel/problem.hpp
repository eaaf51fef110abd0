// What the engine is given: strided matrices in raw memory, numbers, and what becomes of scores.
// No Eigen, no heads, and no types of masks: those are behind functions of a tile.
#pragma once

#include <algorithm>
#include <attn/config.hpp>
#include <attn/dropout.hpp>
#include <attn/position.hpp>
#include <limits>

namespace attn::inline ATTN_ABI::kernel {

/// A matrix in memory: element (i, j) lies at data[i · row_stride + j · col_stride]. By reference
/// to what is not inlined: a copy waits until members written just before have reached the cache.
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
  [[nodiscard]] strided moved(index elements) const {
    return {data == nullptr ? nullptr : data + elements, row_stride, col_stride};
  }
};

/// The keys and values of one head, in one piece of memory or in several of `piece` keys each: key
/// j lies in piece j / piece, which is page table[j / piece], or page 0 where there is no table.
template <class T>
struct key_memory {
  strided<const T> key;  // of page 0: keys x depth
  strided<const T> value;
  index key_page = 0;  // from page to page
  index value_page = 0;
  const std::int32_t* table = nullptr;
  index piece = std::numeric_limits<index>::max();

  /// How many keys from j on, at most `most`, lie one after the other.
  [[nodiscard]] index together(index j, index most) const {
    return j + most <= piece ? most : std::min(most, piece - j % piece);
  }
  [[nodiscard]] strided<const T> key_at(index j) const { return at(key, key_page, j); }
  [[nodiscard]] strided<const T> value_at(index j) const { return at(value, value_page, j); }

 private:
  [[nodiscard]] strided<const T> at(const strided<const T>& of, index of_page, index j) const {
    if (j < piece && table == nullptr) return of.from(j, 0);  // saves the division
    const index page = table == nullptr ? 0 : table[j / piece];
    return of.from(j % piece, 0).moved(page * of_page);
  }
};

/// One head of attention, as defined at `scaled_dot_product_attention`.
template <class T>
struct problem {
  strided<const T> query;  // queries x depth
  key_memory<T> memory;    // keys x depth, keys x value_depth
  strided<T> out;          // queries x value_depth
  strided<T> log_sum_exp;  // queries x 1, or nothing
  strided<T> weights;      // queries x keys, or nothing
  index first_key = 0;     // those before it are hidden, and not in memory
  index depth = 0;
  index value_depth = 0;
  T scale = 1;
  T sink = 0;  // -inf: none
  detail::dropping dropout;
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
  /// The same for one row: scores of `keys` keys from `at` on, one after the other.
  void (*change_row)(const score_rules& rules, T* scores, position at, std::int32_t keys) = nullptr;
  void (*mask_row)(const score_rules& rules, T* scores, position at, std::int32_t keys) = nullptr;
};

/// What the gradients need besides.
template <class T>
struct gradient_rules {
  score_rules<T> scores;
  /// Turns the gradient of changed scores into that of the scores before: gradient ·
  /// change'(score), for the first `rows` lanes. Adds to the gradients of the change's parameters,
  /// if wanted.
  void (*change_gradient)(const score_rules<T>& rules, const score_tile<T>& before, index rows,
                          T* gradient, double* parameters) = nullptr;
};

/// Vectors of rows that a block has at most: their accumulators fill the registers.
inline constexpr int vectors_a_block = 3;

/// Keys in a chunk, where few queries meet many keys: a whole number of tiles on any instruction
/// set.
inline constexpr index keys_a_chunk = 1024;

/// What a call for few queries works on: a group of heads that share keys, and a chunk of these.
template <class T>
struct query_group {
  problem<T> p;  // of the group's first head
  index heads = 1;
  index query_head = 0;  // from head to head of the query
  index begin = 0;       // the chunk's keys
  index end = 0;
  T* out = nullptr;               // rows x value_depth: the result over these keys alone
  T* highest = nullptr;           // rows: the largest score
  T* sum = nullptr;               // rows: Σ exp(s - highest)
  bool into_first_cache = false;  // whether keys and values are asked for into the first cache

  [[nodiscard]] index rows() const { return heads * p.shape.queries; }
};

/// How the rows of a call are dealt out to blocks: as many vectors of rows to each, but one less to
/// the first, or the first two, where they do not come out even: a block of a single vector would
/// keep a core half busy, and under a causal mask the first blocks have the least to do.
struct row_blocks {
  index rows = 0;
  index lanes = 1;  // rows in a vector

  [[nodiscard]] index count() const { return (vectors() + vectors_a_block - 1) / vectors_a_block; }
  [[nodiscard]] index start(index block) const {
    constexpr index most = vectors_a_block;
    const index lacking = most * count() - vectors();
    return std::min(std::max(most * block - lacking, (most - 1) * block) * lanes, rows);
  }
  [[nodiscard]] index size(index block) const { return start(block + 1) - start(block); }

 private:
  [[nodiscard]] index vectors() const { return (rows + lanes - 1) / lanes; }
};

/// The gradients of one head of attention. What is not wanted has no memory.
template <class T>
struct gradient_problem {
  problem<T> p;                           // the forward pass, but for what it writes
  strided<const T> out;                   // queries x value_depth: what it gave,
  strided<const T> log_sum_exp;           // queries x 1,
  strided<const T> out_gradient;          // and what came back for them
  strided<const T> log_sum_exp_gradient;  // or nothing
  strided<T> query;                       // queries x depth: what is added to
  strided<T> key;                         // keys x depth
  strided<T> value;                       // keys x value_depth
  strided<T> bias;               // queries x keys; a row stride of 0 where one row serves all
  double* parameters = nullptr;  // of the score change
};

/// One head of attention and a direction in which its inputs change. What does not change has no
/// memory.
template <class T>
struct tangent_problem {
  problem<T> p;
  strided<const T> query;  // queries x depth
  strided<const T> key;    // keys x depth
  strided<const T> value;  // keys x value_depth
  strided<T> out;          // queries x value_depth: what the result changes by,
  strided<T> log_sum_exp;  // queries x 1: and its log-sum-exp
};

/// The engine, as compiled for one instruction set.
template <class T>
struct engine_functions {
  index lanes;
  /// Numbers that `forward` needs to work in.
  index (*memory_size)(const problem<T>& p);
  /// Rows [first, first + rows) of the result, a block of `row_blocks`.
  void (*forward)(const problem<T>& p, const score_rules<T>& rules, index first, index rows,
                  T* memory);
  /// Numbers that `decode` needs to work in, for a group of so many heads.
  index (*decode_memory_size)(const problem<T>& p, index heads);
  /// One chunk of keys for a group.
  void (*decode)(const query_group<T>& group, const score_rules<T>& rules, T* memory);
};

/// The same for gradients.
template <class T>
struct gradient_functions {
  index lanes;
  index keys_a_tile;
  index (*memory_size)(const gradient_problem<T>& g);
  /// What rows [first, first + rows), a block of `row_blocks`, and keys [begin, end), which start
  /// at a tile, add to the gradients.
  void (*backward)(const gradient_problem<T>& g, const gradient_rules<T>& rules, index first,
                   index rows, index begin, index end, T* memory);
  /// Numbers that `tangent` needs to work in.
  index (*tangent_memory_size)(const problem<T>& p);
  /// Rows [first, first + rows) of the result and of its tangent, a block of `row_blocks`.
  void (*tangent)(const tangent_problem<T>& d, const gradient_rules<T>& rules, index first,
                  index rows, T* memory);
};

/// Memory for the engine starts at a multiple of this many bytes.
inline constexpr std::size_t workspace_alignment = 64;

}  // namespace attn::inline ATTN_ABI::kernel
