// Where a score stands: its position, tiles of positions, and the alignment of queries to keys.
// Masks and score changes see nothing else of a call.
#pragma once

#include <attn/config.hpp>
#include <cstdint>
#include <limits>

namespace attn::inline ATTN_ABI {

/// One pair of a query and a key, counted from the first of their sequence. Query `row` stands at
/// position `query` = row + offset among the keys, which may be negative or beyond the last key.
struct position {
  std::int32_t batch = 0;  ///< which sequence
  std::int32_t head = 0;   ///< which head of the query
  std::int32_t row = 0;    ///< which query
  std::int32_t query = 0;  ///< row + offset
  std::int32_t key = 0;    ///< which key
};

/// A rectangle of pairs: its first position and how many rows and keys it spans, each at least 1.
struct tile {
  std::int32_t batch = 0;  ///< which sequence
  std::int32_t head = 0;   ///< which head of the query
  std::int32_t row = 0;    ///< which query
  std::int32_t query = 0;  ///< row + offset
  std::int32_t key = 0;    ///< which key
  std::int32_t rows = 1;   ///< how many it spans
  std::int32_t keys = 1;   ///< how many it spans

  /// Position of the last row.
  [[nodiscard]] constexpr std::int32_t last_query() const { return query + rows - 1; }
  /// The last key.
  [[nodiscard]] constexpr std::int32_t last_key() const { return key + keys - 1; }
};

/// How much of a tile a mask lets through. `some` is always true enough: it means "look".
enum class coverage : std::uint8_t { none, some, all };

/// How the rows of the query are placed among the keys: row i stands at position i + offset.
/// Libraries disagree silently on this for Lq != Lk; here it has no default then.
class alignment {
 public:
  /// Not given: offset 0 where Lq == Lk or nothing positional is used, else refused.
  constexpr alignment() = default;

  /// Row i stands at i + offset.
  static constexpr alignment fixed(index offset) { return {kind::fixed, offset}; }
  /// The last row stands at the last key.
  static constexpr alignment ends_meet() { return {kind::ends_meet, 0}; }

  /// Whether it was given.
  [[nodiscard]] constexpr bool given() const { return kind_ != kind::not_given; }

  /// The offset for `queries` rows of query and `keys` rows of key.
  [[nodiscard]] constexpr index offset(index queries, index keys) const {
    return kind_ == kind::ends_meet ? keys - queries : offset_;
  }

 private:
  enum class kind { not_given, fixed, ends_meet };
  constexpr alignment(kind which, index offset) : kind_(which), offset_(offset) {}

  kind kind_ = kind::not_given;
  index offset_ = 0;
};

/// The first query stands at the first key (offset 0).
inline constexpr alignment top_left = alignment::fixed(0);
/// The last query stands at the last key (offset Lk - Lq): new tokens after cached ones.
inline constexpr alignment bottom_right = alignment::ends_meet();
/// The first query stands at key `n`, which may lie outside the keys on either side.
constexpr alignment offset(index n) { return alignment::fixed(n); }

/// On which side a batch is padded whose sequences have different lengths: `right` has the tokens
/// first, `left` has them last.
enum class padding { right, left };

/// What a mask or a score change may check about a call before anything is computed.
struct call_shape {
  std::int32_t batch = 1;    ///< sequences
  std::int32_t heads = 1;    ///< heads of the query
  std::int32_t queries = 0;  ///< rows of the query
  std::int32_t keys = 0;     ///< rows of the key
  std::int32_t offset = 0;   ///< row i stands at i + offset
};

namespace detail {

/// Rows of padding before the tokens of a sequence that has `count` of `length` rows.
constexpr index rows_before(index length, index count, padding side) {
  return count > 0 && side == padding::left ? length - count : 0;
}

/// Positions carry 32 bits, so that code on them vectorises as wide as float does. Every position,
/// and the distance of any query to any key, is made to fit here, once a call.
inline call_shape make_call_shape(index queries, index keys, const alignment& given,
                                  bool positional, index heads = 1, index batch = 1) {
  constexpr index most = std::numeric_limits<std::int32_t>::max();
  require(queries < most, "query has ", queries, " rows, at most ", most - 1, " are supported");
  require(keys < most, "key has ", keys, " rows, at most ", most - 1, " are supported");
  require(!positional || given.given() || queries == keys, "query has ", queries,
          " rows and key has ", keys,
          ": the mask or score change depends on positions, so options.alignment must be given: "
          "attn::top_left, attn::bottom_right or attn::offset(n)");
  const index offset = given.offset(queries, keys);
  require(offset >= keys - most && offset <= most - queries, "alignment has offset ", offset,
          ", which places queries beyond 32-bit positions: it must lie in [", keys - most, ", ",
          most - queries, "]");
  return {.batch = static_cast<std::int32_t>(batch),
          .heads = static_cast<std::int32_t>(heads),
          .queries = static_cast<std::int32_t>(queries),
          .keys = static_cast<std::int32_t>(keys),
          .offset = static_cast<std::int32_t>(offset)};
}

/// Calls the optional `check` of a mask or a score change.
template <class T>
void check(const T& part, const call_shape& shape) {
  if constexpr (requires { part.check(shape); }) part.check(shape);
}

}  // namespace detail
}  // namespace attn::inline ATTN_ABI
