// Masks: which keys a query may attend to. A mask is a small type that answers two questions,
// `visible(position)`, its definition, and `cover(tile)`, a bound on it; `& | ~` combine masks.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <attn/heads.hpp>
#include <attn/integers.hpp>
#include <attn/mask_matrix.hpp>
#include <attn/position.hpp>
#include <utility>
#include <vector>

namespace attn::inline ATTN_ABI {

/// A mask. It may also have `check(call_shape) const`, which throws where the mask does not fit the
/// call; `bias(position) const`, a number added to the score; and `static constexpr bool positional
/// = false`, where its answers do not depend on `position::query`, so that no alignment is needed.
template <class M>
concept Mask = std::copy_constructible<M> && requires(const M mask, position at, tile t) {
  { mask.visible(at) } -> std::convertible_to<bool>;  // is this key seen by this query?
  { mask.cover(t) } -> std::same_as<coverage>;        // none, some or all of the tile is seen
};

/// A mask that also adds a number to the scores that it leaves visible.
template <class M>
concept AdditiveMask = Mask<M> && requires(const M mask, position at) { mask.bias(at); };

/// Whether a mask's answers depend on where the queries stand among the keys.
template <class M>
inline constexpr bool positional_mask = true;
/// Where it says so itself.
template <class M>
  requires requires { M::positional; }
inline constexpr bool positional_mask<M> = M::positional;

namespace detail {

constexpr coverage bound(bool none, bool all) {
  return none ? coverage::none : all ? coverage::all : coverage::some;
}

}  // namespace detail

/// Every query sees every key.
struct none {
  static constexpr bool positional = false;
  [[nodiscard]] constexpr bool visible(position) const { return true; }
  [[nodiscard]] constexpr coverage cover(tile) const { return coverage::all; }
};

/// A query at position p sees the keys j <= p.
struct causal {
  [[nodiscard]] constexpr bool visible(position at) const { return at.key <= at.query; }
  [[nodiscard]] constexpr coverage cover(tile t) const {
    return detail::bound(t.key > t.last_query(), t.last_key() <= t.query);
  }
};

/// A side of a window that has no end.
inline constexpr index unbounded = -1;

/// A query at position p sees the keys p - left <= j <= p + right; the key at p is counted in
/// neither. `sliding_window(n)` is (n, n); -1 (`unbounded`) leaves a side open.
class sliding_window {
 public:
  /// @{
  /// Throws std::invalid_argument for less than -1.
  constexpr explicit sliding_window(index n) : sliding_window(n, n) {}
  constexpr sliding_window(index left, index right)
      : left_(reach(left, "left")), right_(reach(right, "right")) {}
  /// @}

  [[nodiscard]] constexpr bool visible(position at) const {
    const std::int32_t ahead = at.key - at.query;
    // Not &&: compilers do not vectorise what may skip its right side.
    return static_cast<bool>(static_cast<int>(-left_ <= ahead) & static_cast<int>(ahead <= right_));
  }
  [[nodiscard]] constexpr coverage cover(tile t) const {
    const std::int32_t least_ahead = t.key - t.last_query();
    const std::int32_t most_ahead = t.last_key() - t.query;
    return detail::bound(most_ahead < -left_ || right_ < least_ahead,
                         -left_ <= least_ahead && most_ahead <= right_);
  }

 private:
  /// No two positions are farther apart than 32 bits hold.
  static constexpr std::int32_t reach(index n, std::string_view side) {
    detail::require(n >= unbounded, "sliding_window has ", side, " ", n,
                    ", it should be at least 0, or -1 for unbounded");
    constexpr index most = std::numeric_limits<std::int32_t>::max();
    return static_cast<std::int32_t>(n == unbounded ? most : std::min(n, most));
  }

  std::int32_t left_;
  std::int32_t right_;
};

/// Only the first `length` keys are seen: the others are padding. One length for every sequence, or
/// a list with one a sequence, which must outlive the mask where it has a name.
class key_padding {
 public:
  static constexpr bool positional = false;

  /// One length for all. Throws std::invalid_argument for a negative one.
  explicit key_padding(index length) : length_(length) {
    detail::require(length >= 0, "key_padding has length ", length, ", it should be at least 0");
  }
  /// One length a sequence. Throws std::invalid_argument for a negative one.
  explicit key_padding(const integers& lengths) : lengths_(lengths) {
    for (index b = 0; b < lengths_.size(); ++b) {
      detail::require(lengths_[b] >= 0, "key_padding has length ", lengths_[b], " for sequence ", b,
                      ", it should be at least 0");
    }
  }

  void check(const call_shape& shape) const {
    detail::require(!lengths_ || lengths_.size() == shape.batch, "key_padding has ",
                    lengths_.size(), " lengths, the call has ", shape.batch, " sequences");
    for (index b = 0; b < (lengths_ ? lengths_.size() : 1); ++b) {
      detail::require(length_of(b) <= shape.keys, "key_padding has length ", length_of(b),
                      ", key has ", shape.keys, " rows");
    }
  }
  [[nodiscard]] bool visible(position at) const { return at.key < length_of(at.batch); }
  [[nodiscard]] coverage cover(tile t) const {
    const index length = length_of(t.batch);
    return detail::bound(t.key >= length, t.last_key() < length);
  }

 private:
  [[nodiscard]] index length_of(index batch) const { return lengths_ ? lengths_[batch] : length_; }

  index length_ = 0;
  integers lengths_;
};

/// A prefix language model: every query sees the first `length` keys, and a query at position p
/// sees the keys j <= p as well.
class prefix {
 public:
  /// Throws std::invalid_argument for a negative length.
  constexpr explicit prefix(index length) : length_(length) {
    detail::require(length >= 0, "prefix has length ", length, ", it should be at least 0");
  }

  [[nodiscard]] constexpr bool visible(position at) const {
    return at.key < std::max<index>(length_, index{at.query} + 1);
  }
  [[nodiscard]] constexpr coverage cover(tile t) const {
    return detail::bound(t.key >= length_ && t.key > t.last_query(),
                         t.last_key() < length_ || t.last_key() <= t.query);
  }

 private:
  index length_;
};

/// Several documents in one sequence: a query at position p sees the keys j with ids[p] == ids[j].
/// A position outside the list sees nothing and is not seen.
class documents {
 public:
  /// `ids`: any range of integers, one a position.
  template <class Ids>
  explicit documents(const Ids& ids) : ids_(std::begin(ids), std::end(ids)) {
    static_assert(std::integral<std::remove_cvref_t<decltype(*std::begin(ids))>>,
                  "attn: documents takes a range of integers, one a position.");
  }

  [[nodiscard]] bool visible(position at) const {
    return listed(at.query) && listed(at.key) && id(at.query) == id(at.key);
  }

  /// Compares the lowest and highest document among the tile's queries with those of its keys.
  [[nodiscard]] coverage cover(tile t) const {
    const auto [query_low, query_high] = range(t.query, t.last_query());
    const auto [key_low, key_high] = range(t.key, t.last_key());
    const bool inside =
        listed(t.query) && listed(t.last_query()) && listed(t.key) && listed(t.last_key());
    return detail::bound(query_high < key_low || key_high < query_low,
                         inside && query_low == query_high && key_low == key_high);
  }

 private:
  [[nodiscard]] bool listed(index at) const { return at >= 0 && at < std::ssize(ids_); }
  [[nodiscard]] std::int64_t id(index at) const { return ids_[static_cast<std::size_t>(at)]; }

  /// The lowest and highest id among the listed positions first...last; (1, 0) where none is, but
  /// never a pair that overlaps another's by chance: lowest above highest stands apart from all.
  [[nodiscard]] std::pair<std::int64_t, std::int64_t> range(index first, index last) const {
    const auto from = ids_.begin() + std::clamp<index>(first, 0, std::ssize(ids_));
    const auto to = ids_.begin() + std::clamp<index>(last + 1, 0, std::ssize(ids_));
    if (from >= to) {
      return {std::numeric_limits<std::int64_t>::max(), std::numeric_limits<std::int64_t>::min()};
    }
    const auto [low, high] = std::minmax_element(from, to);
    return {*low, *high};
  }

  std::vector<std::int64_t> ids_;
};

/// A mask from a function of the user's: `(query position, key) -> bool` or `(position) -> bool`.
/// It must be pure; it is called from any thread, and never outside the matrix of scores.
template <class F>
class predicate {
 public:
  /// Whether the function takes two numbers and not a position.
  static constexpr bool takes_pair = std::is_invocable_v<const F&, std::int32_t, std::int32_t>;

  /// Copies the function.
  constexpr explicit predicate(F function) : function_(std::move(function)) {}

  [[nodiscard]] constexpr bool visible(position at) const {
    if constexpr (takes_pair) {
      return static_cast<bool>(function_(at.query, at.key));
    } else {
      return static_cast<bool>(function_(at));
    }
  }
  [[nodiscard]] constexpr coverage cover(tile) const { return coverage::some; }

 private:
  F function_;
};

/// What both masks leave visible. Where one is additive, so is the result; biases add up.
template <Mask A, Mask B>
struct intersection {
  static constexpr bool conjunction = true;
  static constexpr bool positional = positional_mask<A> || positional_mask<B>;
  A first;
  B second;

  void check(const call_shape& shape) const {
    detail::check(first, shape);
    detail::check(second, shape);
  }
  [[nodiscard]] constexpr bool visible(position at) const {
    return first.visible(at) && second.visible(at);
  }
  [[nodiscard]] constexpr coverage cover(tile t) const {
    const coverage a = first.cover(t);
    return a == coverage::none ? a : std::min(a, second.cover(t));
  }
  [[nodiscard]] constexpr auto bias(position at) const
    requires AdditiveMask<A> || AdditiveMask<B>
  {
    if constexpr (!AdditiveMask<B>) {
      return first.bias(at);
    } else if constexpr (!AdditiveMask<A>) {
      return second.bias(at);
    } else {
      return first.bias(at) + second.bias(at);
    }
  }
};

/// What either mask leaves visible.
template <Mask A, Mask B>
struct either {
  static_assert(!AdditiveMask<A> && !AdditiveMask<B>,
                "attn: an additive mask cannot be joined with |: which bias would hold where only "
                "the other mask lets a key through? Use a boolean mask.");
  static constexpr bool positional = positional_mask<A> || positional_mask<B>;
  A first;
  B second;

  void check(const call_shape& shape) const {
    detail::check(first, shape);
    detail::check(second, shape);
  }
  [[nodiscard]] constexpr bool visible(position at) const {
    return first.visible(at) || second.visible(at);
  }
  [[nodiscard]] constexpr coverage cover(tile t) const {
    const coverage a = first.cover(t);
    return a == coverage::all ? a : std::max(a, second.cover(t));
  }
};

/// What a mask hides.
template <Mask M>
struct complement {
  static_assert(!AdditiveMask<M>,
                "attn: an additive mask has no complement ~. Use a boolean mask.");
  static constexpr bool positional = positional_mask<M>;
  M hidden;

  void check(const call_shape& shape) const { detail::check(hidden, shape); }
  [[nodiscard]] constexpr bool visible(position at) const { return !hidden.visible(at); }
  [[nodiscard]] constexpr coverage cover(tile t) const {
    const coverage seen = hidden.cover(t);
    return detail::bound(seen == coverage::all, seen == coverage::none);
  }
};

namespace detail {

template <class F>
concept PairPredicate = std::is_invocable_r_v<bool, const F&, std::int32_t, std::int32_t>;
template <class F>
concept PositionPredicate = std::is_invocable_r_v<bool, const F&, position>;

/// Whatever may stand where a mask is asked for.
template <class M>
concept MaskLike =
    Mask<M> || EigenDense<M> || HeadsLike<M> || PairPredicate<M> || PositionPredicate<M>;

}  // namespace detail

/// The mask that an argument stands for: a mask itself (an lvalue stays a reference), a boolean or
/// floating-point Eigen matrix (held by reference where it is an lvalue), or a function.
template <class M>
auto as_mask(M&& mask) -> decltype(auto) {
  using T = std::remove_cvref_t<M>;
  static_assert(detail::MaskLike<T>,
                "attn: a mask should be one of attn's masks, a matrix of bool (true = may attend) "
                "or of floating-point numbers (added to the scores), a function (query position, "
                "key) -> bool or (attn::position) -> bool, or a type with visible and cover. A "
                "score change comes after "
                "the mask: put attn::none() before it where there is no mask.");
  if constexpr (!detail::MaskLike<T>) {
    return none{};  // so that nothing else is said
  } else if constexpr (Mask<T>) {
    return static_cast<M>(std::forward<M>(mask));
  } else if constexpr (detail::HeadsLike<T>) {
    static_assert(std::is_lvalue_reference_v<M> || std::is_trivially_copyable_v<T>,
                  "attn: a mask of a temporary heads_array would dangle: give the array a name.");
    const auto view = detail::as_heads(mask);
    using scalar = typename decltype(view)::value_type;
    static_assert(
        std::is_same_v<scalar, bool> || !Eigen::NumTraits<scalar>::IsInteger,
        "attn: heads of integers are no mask. Make them bool (true = may attend), or cast "
        "them to floating point to add them to the scores.");
    if constexpr (std::is_same_v<scalar, bool>) {
      return boolean_heads_mask(view);
    } else {
      return additive_heads_mask<scalar>(view);
    }
  } else if constexpr (detail::EigenDense<T>) {
    using scalar = typename T::Scalar;
    static_assert(std::is_same_v<scalar, bool> || !Eigen::NumTraits<scalar>::IsInteger,
                  "attn: a matrix of integers is no mask. Compare it to make a matrix of bool "
                  "(true = may attend), or cast it to floating point to add it to the scores.");
    auto held = detail::hold(std::forward<M>(mask));
    if constexpr (std::is_same_v<scalar, bool>) {
      return boolean_mask(std::move(held));
    } else {
      return additive_mask(std::move(held));
    }
  } else {
    return predicate<T>(std::forward<M>(mask));
  }
}

namespace detail {

/// A mask by value, for keeping.
template <class M>
using mask_of = std::remove_cvref_t<decltype(as_mask(std::declval<M>()))>;

template <class A, class B>
concept MaskOperands = (Mask<std::remove_cvref_t<A>> && MaskLike<std::remove_cvref_t<B>>) ||
                       (MaskLike<std::remove_cvref_t<A>> && Mask<std::remove_cvref_t<B>>);

}  // namespace detail

/// Both masks: a key is seen where both let it through, and their biases add up. One operand is a
/// mask of this library; the other may be whatever `as_mask` takes.
template <class A, class B>
  requires detail::MaskOperands<A, B>
constexpr auto operator&(A&& a, B&& b) {
  return intersection<detail::mask_of<A>, detail::mask_of<B>>{as_mask(std::forward<A>(a)),
                                                              as_mask(std::forward<B>(b))};
}

/// Either mask: a key is seen where one of them lets it through. Not for additive masks.
template <class A, class B>
  requires detail::MaskOperands<A, B>
constexpr auto operator|(A&& a, B&& b) {
  return either<detail::mask_of<A>, detail::mask_of<B>>{as_mask(std::forward<A>(a)),
                                                        as_mask(std::forward<B>(b))};
}

/// The opposite mask. Not for additive masks.
template <class M>
  requires Mask<std::remove_cvref_t<M>>
constexpr auto operator~(M&& mask) {
  return complement<std::remove_cvref_t<M>>{std::forward<M>(mask)};
}

namespace detail {

/// Calls use(mask) for each part of a mask that is a matrix or view in memory.
template <class M, class Use>
void each_in_memory(const M& mask, const Use& use) {
  if constexpr (requires { mask.of_heads; }) {
    use(mask);
  } else if constexpr (requires { mask.hidden; }) {
    each_in_memory(mask.hidden, use);
  } else if constexpr (requires { mask.tiled(); }) {
    each_in_memory(mask.tiled(), use);
  } else if constexpr (requires {
                         mask.first;
                         mask.second;
                       }) {
    each_in_memory(mask.first, use);
    each_in_memory(mask.second, use);
  }
}

}  // namespace detail
}  // namespace attn::inline ATTN_ABI
