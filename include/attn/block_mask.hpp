// The tiles of a mask worked out once, for masks that can only be asked about one position at a
// time.
#pragma once

#include <algorithm>
#include <attn/mask.hpp>
#include <cstdint>
#include <utility>
#include <vector>

namespace attn::inline ATTN_ABI {

/// A mask of Lq x Lk positions with the coverage of its squares of 16 x 16, made by `block_mask`.
/// Whole tiles that it hides are then skipped, and whole tiles that it shows are not looked at.
template <Mask M>
class tiled_mask {
 public:
  static constexpr bool positional = positional_mask<M>;

  /// Asks the mask about every pair, once.
  tiled_mask(M mask, const call_shape& shape) : mask_(std::move(mask)), shape_(shape) {
    detail::check(mask_, shape_);
    columns_ = (index{shape.keys} + side - 1) / side;
    for (index row = 0; row < shape.queries; row += side) {
      for (index key = 0; key < shape.keys; key += side) squares_.push_back(look(row, key));
    }
  }

  /// Refuses a call of another shape or alignment than the tiles were worked out for.
  void check(const call_shape& shape) const {
    detail::require(shape.queries == shape_.queries && shape.keys == shape_.keys,
                    "block_mask is for ", shape_.queries, " queries and ", shape_.keys,
                    " keys, the call has ", shape.queries, " and ", shape.keys);
    detail::require(!positional || shape.offset == shape_.offset, "block_mask is for offset ",
                    shape_.offset, ", the call's alignment gives ", shape.offset,
                    " (where lengths move it: give the mask itself)");
    detail::check(mask_, shape);
  }
  [[nodiscard]] bool visible(position at) const { return mask_.visible(at); }
  /// The mask whose tiles these are.
  [[nodiscard]] const M& tiled() const { return mask_; }

  [[nodiscard]] coverage cover(tile t) const {
    bool none = true;
    bool all = true;
    for (index i = t.row / side; i <= (t.row + t.rows - 1) / side; ++i) {
      for (index j = t.key / side; j <= t.last_key() / side; ++j) {
        const coverage seen = squares_[static_cast<std::size_t>(i * columns_ + j)];
        none = none && seen == coverage::none;
        all = all && seen == coverage::all;
      }
    }
    return detail::bound(none, all);
  }

 private:
  static constexpr index side = 16;

  [[nodiscard]] coverage look(index row, index key) const {
    bool none = true;
    bool all = true;
    for (index r = row; r < std::min<index>(row + side, shape_.queries); ++r) {
      for (index j = key; j < std::min<index>(key + side, shape_.keys); ++j) {
        const auto i = static_cast<std::int32_t>(r);
        const bool seen = mask_.visible({0, 0, i, i + shape_.offset, static_cast<std::int32_t>(j)});
        none = none && !seen;
        all = all && seen;
      }
    }
    return detail::bound(none, all);
  }

  M mask_;
  call_shape shape_;
  index columns_ = 0;
  std::vector<coverage> squares_;
};

/// Works out once which tiles of a mask, of `queries` rows and `keys` keys, are hidden or shown
/// whole, for use in any number of calls of that shape and alignment. `mask` is whatever `as_mask`
/// takes, without a bias; it must not depend on the batch or head. Asks it about every position
/// once, and holds a byte for 256 of them or so. Throws std::invalid_argument as a call would.
template <class M>
auto block_mask(M&& mask, index queries, index keys, const alignment& given = {}) {
  using held = detail::mask_of<M>;
  static_assert(!AdditiveMask<held>,
                "attn: block_mask takes masks that hide keys, not additive ones.");
  return tiled_mask<held>(as_mask(std::forward<M>(mask)),
                          detail::make_call_shape(queries, keys, given, positional_mask<held>));
}

}  // namespace attn::inline ATTN_ABI
