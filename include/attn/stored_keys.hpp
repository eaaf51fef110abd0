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
  const T* key = nullptr;
  const T* value = nullptr;
  index key_head = 0;  // strides, in elements
  index key_row = 0;
  index key_col = 1;
  index key_page = 0;
  index value_head = 0;
  index value_row = 0;
  index value_col = 1;
  index value_page = 0;
  const std::int32_t* table = nullptr;
  index piece = std::numeric_limits<index>::max();
  index first = 0;   // positions before it are no longer there
  index length = 0;  // positions first ... length - 1 are
};

}  // namespace attn::inline ATTN_ABI
