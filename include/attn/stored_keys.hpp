// Where the keys and values of one sequence lie: in one piece of memory, or in several. Caches give
// these, and the engine reads through them, so that nothing is ever copied together.
#pragma once

#include <attn/config.hpp>
#include <cstdint>
#include <limits>

namespace attn::inline ATTN_ABI {

/// The keys and values of one sequence, all heads of them. The token at position j lies in piece
/// j / piece, at row j % piece of it; piece n is page `table[n]`, or the first where there is no
/// table. One matrix is a single piece; a ring comes back to the same piece again and again.
/// Element c of head h of a token at row r of page n lies at
/// key[n · key_page + h · key_head + r · key_row + c · key_col], and likewise for values.
template <class T>
struct stored_keys {
  const T* key = nullptr;               ///< the first of the first head, in page 0
  const T* value = nullptr;             ///< the same of the values
  index key_head = 0;                   ///< strides, in elements
  index key_row = 0;                    ///< from key to key
  index key_col = 1;                    ///< from feature to feature
  index key_page = 0;                   ///< from page to page
  index value_head = 0;                 ///< as of the keys
  index value_row = 0;                  ///< as of the keys
  index value_col = 1;                  ///< as of the keys
  index value_page = 0;                 ///< as of the keys
  const std::int32_t* table = nullptr;  ///< page of each piece; null: one after the other
  index piece = std::numeric_limits<index>::max();  ///< keys of a page
  index first = 0;                                  ///< positions before it are no longer there
  index length = 0;                                 ///< positions first ... length - 1 are
  /// Tokens that are there at most, however many come, for memory to be taken once; 0: unknown.
  index capacity = 0;
};

}  // namespace attn::inline ATTN_ABI
