// Score changes: a scalar function of a score and its position, applied between scale and mask.
// Softcap, ALiBi, relative bias, compositions of them, and functions of the user's.
#pragma once

#include <attn/held_matrix.hpp>
#include <attn/integers.hpp>
#include <attn/math.hpp>
#include <attn/position.hpp>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

namespace attn::inline ATTN_ABI {

/// A score change for scores of type S: `(S, position) -> S` or `(S) -> S`, pure, called from any
/// thread. It may also have `check(call_shape) const`, which throws where it does not fit the call.
template <class F, class S>
concept ScoreMod = std::copy_constructible<F> && (std::is_invocable_v<const F&, S, position> ||  //
                                                  std::is_invocable_v<const F&, S>);

/// Whether a score change looks at the position of a score of type S.
template <class F, class S>
inline constexpr bool positional_score_mod = std::is_invocable_v<const F&, S, position>;
/// Where it says so itself.
template <class F, class S>
  requires requires { F::positional; }
inline constexpr bool positional_score_mod<F, S> = F::positional;

namespace detail {

/// A number in the type of the scores. 16-bit numbers go through float, their only exact way out.
template <class S, class T>
S convert(const T& x) {
  if constexpr (std::is_same_v<T, Eigen::half> || std::is_same_v<T, Eigen::bfloat16>) {
    return static_cast<S>(static_cast<float>(x));
  } else {
    return static_cast<S>(x);
  }
}

/// What a function asks for as its first argument, where it has just one signature.
template <class F>
struct first_argument {};
template <class R, class A, class... Rest>
struct first_argument<R (*)(A, Rest...)> {
  using type = std::remove_cvref_t<A>;
};
template <class F>
  requires requires { &F::operator(); }
struct first_argument<F> {
  template <class R, class C, class A, class... Rest>
  static A of(R (C::*)(A, Rest...) const);
  template <class R, class C, class A, class... Rest>
  static A of(R (C::*)(A, Rest...) const noexcept);
  using type = std::remove_cvref_t<decltype(of(&F::operator()))>;
};

template <class From, class To>
concept Narrows =
    std::is_arithmetic_v<From> && std::is_arithmetic_v<To> && !requires(From from) { To{from}; };

template <class F, class S>
concept NarrowsItsScore =
    requires { typename first_argument<F>::type; } && Narrows<S, typename first_argument<F>::type>;

/// The changed score.
template <class F, class S>
S change(const F& score_mod, S s, position at) {
  static_assert(ScoreMod<F, S>,
                "attn: a score change should be a function (score, attn::position) -> score or "
                "(score) -> score; write it as const (a lambda that is not mutable).");
  static_assert(!NarrowsItsScore<F, S>,
                "attn: this score change takes a narrower type than the scores have: let it take "
                "the scores' type (double for double), or auto.");
  const auto changed = [&] {
    if constexpr (std::is_invocable_v<const F&, S, position>) {
      return score_mod(std::move(s), at);
    } else {
      return score_mod(std::move(s));
    }
  }();
  static_assert(!Narrows<std::remove_cvref_t<decltype(changed)>, S>,
                "attn: this score change returns a type that the scores' type cannot hold: cast "
                "its result, or write its constants in the scores' type (0.1f for float).");
  return static_cast<S>(changed);
}

}  // namespace detail

/// Leaves every score as it is.
struct identity {
  static constexpr bool positional = false;
  template <class S>
  constexpr S operator()(S s) const {
    return s;
  }
  template <class S>
  constexpr S derivative(S) const {
    return S(1);
  }
};

/// cap · tanh(s / cap): scores smoothly bounded to (-cap, cap), before any mask or bias.
class softcap {
 public:
  static constexpr bool positional = false;

  /// Throws std::invalid_argument for a cap that is not between 1e-30 and 1e30.
  explicit softcap(double cap) : cap_(cap) {
    detail::require(cap >= 1e-30 && cap <= 1e30, "softcap has cap ", cap,
                    ", it should be between 1e-30 and 1e30");
  }

  template <class S>
  S operator()(S s) const {
    const S cap = detail::convert<S>(cap_);
    if constexpr (std::is_same_v<S, float> || std::is_same_v<S, double>) {
      return cap * math::tanh(s * detail::convert<S>(1 / cap_));
    } else {
      using std::tanh;
      return cap * tanh(S(s / cap));
    }
  }

  /// 1 - tanh²(s / cap)
  template <class S>
  S derivative(S s) const {
    const S t = math::tanh(s * detail::convert<S>(1 / cap_));
    return 1 - t * t;
  }

 private:
  double cap_;
};

/// The slopes of ALiBi for `heads` heads: with n = 2^⌊log₂ heads⌋, head h < n has 2^(-8(h+1)/n) and
/// the others 2^(-4(2(h-n)+1)/n) (Press, Smith, Lewis: Train Short, Test Long, 2022).
inline std::vector<double> alibi_slopes(index heads) {
  detail::require(heads >= 1, "alibi_slopes has ", heads, " heads, it should be at least 1");
  double n = 1;
  while (2 * n <= static_cast<double>(heads)) n *= 2;
  std::vector<double> slopes;
  for (index head = 0; head < heads; ++head) {
    const auto h = static_cast<double>(head);
    slopes.push_back(std::exp2(h < n ? -8 * (h + 1) / n : -4 * (2 * (h - n) + 1) / n));
  }
  return slopes;
}

/// Attention with linear biases: s - slope · |p - j|, one slope for every head or one a head.
class alibi {
 public:
  static constexpr bool positional = true;

  /// @{
  /// Copies them.
  explicit alibi(double slope) : slopes_{slope} {}
  explicit alibi(std::vector<double> slopes) : slopes_(std::move(slopes)) {}
  template <detail::ContiguousList List>
  explicit alibi(const List& slopes)
      : slopes_(std::data(slopes), std::data(slopes) + std::size(slopes)) {}
  /// @}

  void check(const call_shape& shape) const {
    detail::require(slopes_.size() == 1 || std::ssize(slopes_) == shape.heads, "alibi has ",
                    slopes_.size(), " slopes, the call has ", shape.heads,
                    " heads (a single slope would serve all)");
    for (const double slope : slopes_) {
      detail::require(std::abs(slope) <= std::numeric_limits<float>::max(), "alibi has slope ",
                      slope, ", it should be finite as a float");
    }
  }

  template <class S>
  S operator()(S s, position at) const {
    const auto head = slopes_.size() == 1 ? 0 : static_cast<std::size_t>(at.head);
    return s - detail::convert<S>(slopes_[head]) * detail::convert<S>(std::abs(at.query - at.key));
  }

  template <class S>
  constexpr S derivative(S) const {
    return S(1);
  }
  /// One slope for all heads, or one a head.
  [[nodiscard]] index rows() const { return std::ssize(slopes_); }
  [[nodiscard]] index parameters() const { return 1; }
  template <class S>
  void add_parameter_gradient(S, position at, S gradient, double* to) const {
    *to -= double{gradient} * std::abs(at.query - at.key);
  }

 private:
  std::vector<double> slopes_;
};

/// s + table(h, n + j - p): a bias by distance, for distances -n ... n. The table is a vector of
/// 2n + 1 numbers, or a matrix of them with a row a head.
template <class Held>
class relative_bias_table {
  using matrix = std::remove_cvref_t<decltype(std::declval<const Held&>().get())>;

 public:
  static constexpr bool positional = true;
  /// Whether one table serves all heads.
  static constexpr bool is_vector = matrix::IsVectorAtCompileTime;

  /// Holds the table, as `relative_bias` does.
  explicit relative_bias_table(Held table) : table_(std::move(table)) {}

  /// Refuses a table that the farthest pair of the call would read outside of.
  void check(const call_shape& shape) const {
    const auto& table = table_.get();
    const index entries = is_vector ? table.size() : table.cols();
    const index heads = is_vector ? 1 : table.rows();
    detail::require(entries % 2 == 1, "relative_bias has ", entries,
                    " entries a head, it should be an odd number: distances -n to n");
    detail::require(heads == 1 || heads == shape.heads, "relative_bias has ", heads,
                    " rows, the call has ", shape.heads, " heads (a single row would serve all)");
    if (shape.queries == 0 || shape.keys == 0) return;
    const index farthest_back = index{shape.offset} + shape.queries - 1;
    const index farthest_ahead = index{shape.keys} - 1 - shape.offset;
    const index reach = std::max(farthest_back, farthest_ahead);
    detail::require(reach <= entries / 2, "relative_bias reaches ", entries / 2,
                    " positions each way, the call has a query and a key ", reach, " apart");
  }

  template <class S>
  S operator()(S s, position at) const {
    const auto& table = table_.get();
    if constexpr (is_vector) {
      return s + detail::convert<S>(table.coeff(table.size() / 2 + at.key - at.query));
    } else {
      const index head = table.rows() == 1 ? 0 : at.head;
      return s + detail::convert<S>(table.coeff(head, table.cols() / 2 + at.key - at.query));
    }
  }

  template <class S>
  constexpr S derivative(S) const {
    return S(1);
  }
  /// The table as given.
  [[nodiscard]] const matrix& table() const { return table_.get(); }
  /// One table for all heads, or one a head, of so many entries.
  [[nodiscard]] index rows() const { return is_vector ? 1 : table_.get().rows(); }
  [[nodiscard]] index parameters() const {
    return is_vector ? table_.get().size() : table_.get().cols();
  }
  template <class S>
  void add_parameter_gradient(S, position at, S gradient, double* to) const {
    to[parameters() / 2 + at.key - at.query] += double{gradient};
  }

 private:
  Held table_;
};

/// Makes a `relative_bias_table` of an Eigen vector or matrix; an lvalue is held by reference.
template <detail::EigenDense Table>
auto relative_bias(Table&& table) {
  return relative_bias_table(detail::hold(std::forward<Table>(table)));
}
/// The same of any other list of numbers, such as a std::vector, one table for all heads; an lvalue
/// is held by reference.
template <class List>
  requires(detail::ContiguousList<std::remove_cvref_t<List>> && !detail::EigenDense<List>)
auto relative_bias(List&& list) {
  using number = std::remove_cvref_t<decltype(*std::data(list))>;
  using table = Eigen::Matrix<number, Eigen::Dynamic, 1>;
  const Eigen::Map<const table> entries(std::data(list), static_cast<index>(std::size(list)));
  if constexpr (std::is_lvalue_reference_v<List>) {
    return relative_bias(entries);
  } else {
    return relative_bias(table(entries));
  }
}

/// First one score change, then the next.
template <class A, class B>
struct composition {
  A first;
  B second;

  void check(const call_shape& shape) const {
    detail::check(first, shape);
    detail::check(second, shape);
  }
  template <class S>
  S operator()(S s, position at) const {
    return detail::change(second, detail::change(first, std::move(s), at), at);
  }
};

template <class A, class B, class S>
inline constexpr bool positional_score_mod<composition<A, B>, S> =
    positional_score_mod<A, S> || positional_score_mod<B, S>;

/// @{
/// Score changes joined from left to right: `compose(softcap(30), alibi(0.5))`.
template <class A>
A compose(A only) {
  return only;
}
template <class A, class B, class... Rest>
auto compose(A first, B second, Rest... rest) {
  return compose(composition<A, B>{std::move(first), std::move(second)}, std::move(rest)...);
}
/// @}

namespace detail {

/// @{
/// Calls use(table) for each table of relative biases in a score change.
template <class F, class Use>
void each_table(const F&, const Use&) {}
template <class Held, class Use>
void each_table(const relative_bias_table<Held>& change, const Use& use) {
  use(change.table());
}
template <class A, class B, class Use>
void each_table(const composition<A, B>& change, const Use& use) {
  each_table(change.first, use);
  each_table(change.second, use);
}
/// @}

}  // namespace detail
}  // namespace attn::inline ATTN_ABI
