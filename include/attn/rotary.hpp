// Rotary position embedding: each pair of a token's features is turned by an angle that grows with
// its position, so that a query's score with a key depends on how far apart they stand.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <attn/heads.hpp>
#include <attn/held_matrix.hpp>
#include <attn/integers.hpp>
#include <attn/memory_overlap.hpp>
#include <attn/stages.hpp>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace attn::inline ATTN_ABI {

/// Which two columns make pair c of the w that are turned. A model's weights are trained for one of
/// them; the other gives numbers that merely look right.
enum class rotary_layout {
  half_split,   ///< c and c + w/2, as in Llama, Qwen and GPT-NeoX
  interleaved,  ///< 2c and 2c + 1, as in RoFormer and GPT-J
};

/// What a rotary embedding may be told: `{.base = 500000, .layout = rotary_layout::interleaved}`.
struct rotary_options {
  /// Pair c of w columns turns by base^(-2c/w) radians a position. From 1e-30 to 1e30.
  double base = 10000;
  /// The radians a position of each pair, in place of those that `base` gives, as methods that
  /// extend a model's context change them: w/2 numbers, none beyond 1e30 either way.
  std::vector<double> frequencies = {};
  rotary_layout layout = rotary_layout::half_split;  ///< which features form pairs
  /// w: only the first so many columns are turned, an even number of them. By default two for each
  /// of `frequencies`, or else all columns.
  std::optional<index> width = std::nullopt;
};

/// Where tokens stand: at most one of these is given. What is referred to must outlive the call.
struct rotary_positions {
  /// Each token's own position: batch x length of them, those of the first sequence first, or
  /// `length` that every sequence has.
  integers ids = {};
  /// Token i of every sequence stands at offset + i.
  index offset = 0;
  /// Token i of sequence b stands at offsets[b] + i.
  integers offsets = {};
};

namespace detail {

/// Positions reach so far either way: to 2^31, or nearly as far as a 32-bit index counts, whose
/// last number stands for all beyond it (see `integers`).
inline constexpr index farthest_position = static_cast<index>(
    std::min<std::int64_t>(std::int64_t{1} << 31, std::numeric_limits<index>::max() - 1));

/// The position of every token of a call, each found to be from `least` to `most`.
class token_positions {
 public:
  token_positions(const rotary_positions& given, const heads_shape& shape, index least, index most,
                  std::string_view reason)
      : given_(given), ids_a_sequence_(given.ids.size() == shape.length ? 0 : shape.length) {
    const auto check = [&](index first, index length, const auto&... name) {
      const index highest = most - (length - 1);
      require(least <= first && first <= highest, name..., " is ", first, ", for a length of ",
              length, " it should be from ", least, " to ", highest, reason);
    };
    const integers& ids = given.ids;
    const integers& offsets = given.offsets;
    require(int{bool{ids}} + int{given.offset != 0} + int{bool{offsets}} <= 1,
            "positions have more than one of ids, offset and offsets, they should have one");
    require(!ids || ids.size() == shape.length || ids.size() == shape.batch * shape.length,
            "positions.ids has ", ids.size(), " numbers, it should have ", shape.length,
            ", one a token, or that for each of ", shape.batch, " sequences");
    require(!offsets || offsets.size() == shape.batch, "positions.offsets has ", offsets.size(),
            " numbers, it should have ", shape.batch, ", one a sequence");
    for (index n = 0; n < ids.size(); ++n) check(ids[n], 1, "positions.ids[", n, "]");
    for (index b = 0; b < offsets.size(); ++b) {
      check(offsets[b], shape.length, "positions.offsets[", b, "]");
    }
    if (!ids && !offsets) check(given.offset, shape.length, "positions.offset");
  }

  [[nodiscard]] index operator()(index b, index i) const {
    if (given_.ids) return given_.ids[b * ids_a_sequence_ + i];
    return (given_.offsets ? given_.offsets[b] : given_.offset) + i;
  }

 private:
  rotary_positions given_;
  index ids_a_sequence_;  // 0: every sequence has the same
};

template <class T>
heads_view<T> turned_view(const heads_view<T>& view) {
  return view;
}
template <class T>
heads_view<T> turned_view(heads_array<T>& array) {
  return array.view();
}
template <Lasting M>
auto turned_view(M&& matrix) {
  return one_head(std::forward<M>(matrix));
}

/// What can be turned in place.
template <class V>
concept Turnable = requires(V&& v) {
  turned_view(std::forward<V>(v));
  requires !std::is_const_v<std::remove_pointer_t<  // it can be written to
      decltype(turned_view(std::forward<V>(v)).data())>>;
};

template <class V>
constexpr void require_turnable() {
  static_assert(
      Turnable<V>,
      "attn: a rotary embedding turns a matrix, Map, Block, Ref, heads_view or heads_array "
      "in place: not a constant, a temporary or an expression.");
}

/// Pairs whose cosines and sines are kept at once: those of heads of up to 128 columns.
inline constexpr index pairs_at_once = 64;

/// The cosines and sines of pairs at one position, in the type that is computed in.
template <class S>
struct turn {
  S cos[pairs_at_once];
  S sin[pairs_at_once];
};

/// (a, b) ← (a cos - b sin, a sin + b cos) for `count` pairs: each `b` lies `partner` elements
/// after its `a`, each `a` lies `step` elements after the one before.
template <class T, class S>
void turn_pairs(T* first, index partner, index step, index count, const turn<S>& by) {
  for (index c = 0; c < count; ++c) {
    T& a = first[c * step];
    T& b = first[c * step + partner];
    const S old_a = static_cast<S>(a);
    const S old_b = static_cast<S>(b);
    a = static_cast<T>(old_a * by.cos[c] - old_b * by.sin[c]);
    b = static_cast<T>(old_a * by.sin[c] + old_b * by.cos[c]);
  }
}

/// Turns the first `width` columns. `turns(first, count)` gives the function (position, turn&) that
/// writes the cosines and sines of pairs first, first + 1, ...
template <class T, class Turns>
void rotate(const heads_view<T>& x, index width, rotary_layout layout, const token_positions& at,
            const Turns& turns) {
  static_assert(!Eigen::NumTraits<T>::IsInteger && !Eigen::NumTraits<T>::IsComplex,
                "attn: rotary embedding turns real floating-point numbers.");
  const bool halves = layout == rotary_layout::half_split;
  const index pairs = width / 2;
  const index partner = (halves ? pairs : 1) * x.strides().col;
  const index step = (halves ? 1 : 2) * x.strides().col;
  for (index first = 0; first < pairs; first += pairs_at_once) {
    const index count = std::min(pairs_at_once, pairs - first);
    const auto write_turn = turns(first, count);
    turn<accumulator_t<T>> by;
    for (index i = 0; i < x.length(); ++i) {
      index written = 0;  // the position that `by` is of
      for (index b = 0; b < x.batch(); ++b) {
        const index position = at(b, i);
        if (b == 0 || position != written) write_turn(position, by);
        written = position;
        for (index h = 0; h < x.heads(); ++h) {
          turn_pairs(&x(b, h, i, 0) + first * step, partner, step, count, by);
        }
      }
    }
  }
}

template <class T>
void check_turnable(const heads_view<T>& x) {
  require(!overlaps_itself(x, footprint_of(x)),
          "x has elements that lie on one another, each would be turned again");
}

}  // namespace detail

/// Turns pair c = (a, b) of a token at position p, for each c < w/2:
///
///     (a, b) ← (a cos θ - b sin θ, a sin θ + b cos θ)   with θ = p · base^(-2c/w)
///
/// (Su et al.: RoFormer: Enhanced Transformer with Rotary Position Embedding, 2021, arXiv
/// 2104.09864, eq. 15 and 34). Queries and keys are turned before attention, values are not.
///
///     const attn::rotary_embedding rotary;
///     rotary(q, {.offset = cached});
///     rotary(k, {.offset = cached});
class rotary_embedding {
 public:
  /// Throws std::invalid_argument for a width that is odd or below 2, for a base or frequencies out
  /// of range, and for another number of frequencies than half the width.
  explicit rotary_embedding(rotary_options options = {})
      : base_(options.base), frequencies_(std::move(options.frequencies)), layout_(options.layout) {
    using detail::require;
    require(base_ >= 1e-30 && base_ <= 1e30, "rotary_options.base is ", base_,
            ", it should be from 1e-30 to 1e30");
    for (const double f : frequencies_) {
      require(std::abs(f) <= 1e30, "rotary_options.frequencies has ", f,
              ", they should be from -1e30 to 1e30");
    }
    if (!options.width) return;
    const index width = *options.width;
    require(width >= 2 && width % 2 == 0, "rotary_options.width is ", width,
            ", it should be an even number and at least 2");
    require(frequencies_.empty() || std::ssize(frequencies_) == width / 2,
            "rotary_options.frequencies has ", frequencies_.size(), " numbers, for width ", width,
            " it should have ", width / 2);
    if (!frequencies_.empty()) return;
    for (index c = 0; c < width / 2; ++c) frequencies_.push_back(power(c, width));
  }

  /// Turns x in place: a `heads_view` or `heads_array`, or, as one head, an Eigen matrix with a row
  /// a token, or a Map, Block or Ref; of float, double, half or bfloat16. Positions are 0, 1, ...
  /// where none are given. Angles are worked out in double: with a base of at least 1 they are good
  /// to |p| · 2^-52 radians, 5e-7 at worst. Allocates nothing. Throws std::invalid_argument where
  /// x is narrower than the width, or has an odd number of columns and no width was given, where
  /// elements of x lie on one another, for lists of the wrong size and for positions beyond ±2^31;
  /// x is as it was then.
  template <detail::Turnable V>
  void operator()(V&& x, const rotary_positions& positions = {}) const {
    const auto view = detail::turned_view(std::forward<V>(x));
    const index width = width_for(view.width());
    detail::check_turnable(view);
    constexpr index farthest = detail::farthest_position;
    const detail::token_positions at(positions, view.shape(), -farthest, farthest,
                                     ": positions reach to 2^31 either way");
    detail::rotate(view, width, layout_, at, [&](index first, index count) {
      std::array<double, detail::pairs_at_once> radians{};  // a position
      for (index c = 0; c < count; ++c) {
        radians[static_cast<std::size_t>(c)] = sense_ * frequency(first + c, width);
      }
      return [radians, count]<class S>(index p, detail::turn<S>& by) {
        for (index c = 0; c < count; ++c) {
          const double angle = static_cast<double>(p) * radians[static_cast<std::size_t>(c)];
          by.cos[c] = static_cast<S>(std::cos(angle));
          by.sin[c] = static_cast<S>(std::sin(angle));
        }
      };
    });
  }

  /// What cannot be written to does not compile.
  template <class V>
    requires(!detail::Turnable<V>)
  void operator()(V&&, const rotary_positions& = {}) const {
    detail::require_turnable<V>();
  }

  /// Turns the other way: undoes this one, and takes gradients of what it turned to gradients of
  /// what was put in.
  [[nodiscard]] rotary_embedding inverse() const {
    rotary_embedding other = *this;
    other.sense_ = -sense_;
    return other;
  }

 private:
  /// base^(-2c/w)
  [[nodiscard]] double power(index c, index width) const {
    return std::pow(base_, -2 * static_cast<double>(c) / static_cast<double>(width));
  }

  /// The radians a position of pair c.
  [[nodiscard]] double frequency(index c, index width) const {
    if (frequencies_.empty()) return power(c, width);
    return frequencies_[static_cast<std::size_t>(c)];
  }

  [[nodiscard]] index width_for(index columns) const {
    const index width = 2 * std::ssize(frequencies_);
    detail::require(width <= columns, "x has ", columns,
                    " columns, the rotary embedding has width ", width,
                    ", it should be at most that");
    if (width > 0) return width;
    detail::require(columns % 2 == 0, "x has ", columns,
                    " columns, it should have an even number or rotary_options.width be given");
    return columns;
  }

  double base_;
  std::vector<double> frequencies_;  // empty until the width is known
  rotary_layout layout_;
  double sense_ = 1;
};

/// The same with cosines and sines from tables, positions x w/2 each, of any floating-point type:
/// (a, b) ← (a cos(p, c) - b sin(p, c), a sin(p, c) + b cos(p, c)) for pair c < w/2 of a token at
/// position p. Turns the first w columns of x in place, everything else as `rotary_embedding` does.
/// Throws std::invalid_argument as that does, where cos and sin are not of one shape, have more
/// than half as many columns as x, or have no row for a position; x is as it was then.
template <detail::Turnable V, detail::EigenDense Cos, detail::EigenDense Sin>
void apply_rotary(V&& x, const Cos& cos, const Sin& sin, const rotary_positions& positions = {},
                  rotary_layout layout = rotary_layout::half_split) {
  const auto view = detail::turned_view(std::forward<V>(x));
  detail::require(cos.rows() == sin.rows() && cos.cols() == sin.cols(), "sin is ", sin.rows(),
                  " x ", sin.cols(), ", it should be ", cos.rows(), " x ", cos.cols(),
                  " as cos is");
  detail::require(2 * cos.cols() <= view.width(), "cos and sin have ", cos.cols(),
                  " columns, they should have at most half of the ", view.width(), " of x");
  detail::check_turnable(view);
  const detail::token_positions at(positions, view.shape(), 0, cos.rows() - 1,
                                   ": cos and sin have a row a position");
  const auto held_cos = detail::hold(cos);
  const auto held_sin = detail::hold(sin);
  detail::rotate(view, 2 * cos.cols(), layout, at, [&](index first, index count) {
    return [&, first, count]<class S>(index p, detail::turn<S>& by) {
      for (index c = 0; c < count; ++c) {
        by.cos[c] = detail::convert<S>(held_cos.get().coeff(p, first + c));
        by.sin[c] = detail::convert<S>(held_sin.get().coeff(p, first + c));
      }
    };
  });
}

/// What cannot be written to does not compile.
template <class V, detail::EigenDense Cos, detail::EigenDense Sin>
  requires(!detail::Turnable<V>)
void apply_rotary(V&&, const Cos&, const Sin&, const rotary_positions& = {},
                  rotary_layout = rotary_layout::half_split) {
  detail::require_turnable<V>();
}

}  // namespace attn::inline ATTN_ABI
