// The stages of attention, each usable by itself: score, scale, score change, mask, softmax,
// weighted sum. Plain Eigen for any scalar: this file is the definition that faster paths equal.
#pragma once

#include <Eigen/Core>
#include <attn/held_matrix.hpp>
#include <attn/mask.hpp>
#include <attn/score_mod.hpp>
#include <cmath>
#include <limits>

namespace attn::inline ATTN_ABI {

namespace detail {

template <class Scalar>
struct accumulator {
  using type = Scalar;
};
template <>
struct accumulator<Eigen::half> {
  using type = float;
};
template <>
struct accumulator<Eigen::bfloat16> {
  using type = float;
};

}  // namespace detail

/// The type that inputs of type Scalar are computed in: float for 16-bit types, else Scalar itself.
template <class Scalar>
using accumulator_t = typename detail::accumulator<Scalar>::type;

namespace detail {

/// The plain matrix with the rows of A and the columns of B, sizes fixed where theirs are fixed and
/// the matrix is small enough for Eigen to keep on the stack.
template <class S, int Rows, int MaxRows, int Cols, int MaxCols, bool RowMajor>
struct plain_matrix {
  static constexpr bool bounded = MaxRows != Eigen::Dynamic && MaxCols != Eigen::Dynamic;
  static constexpr index limit = EIGEN_STACK_ALLOCATION_LIMIT;  // 0: none
  static constexpr bool fits =
      bounded && (limit == 0 || index{sizeof(S)} * MaxRows * MaxCols <= limit);
  static constexpr bool too_large = bounded && !fits;
  static constexpr int rows = too_large && Rows != 1 ? Eigen::Dynamic : Rows;
  static constexpr int cols = too_large && Cols != 1 ? Eigen::Dynamic : Cols;
  static constexpr int max_rows = rows != Eigen::Dynamic ? rows : fits ? MaxRows : Eigen::Dynamic;
  static constexpr int max_cols = cols != Eigen::Dynamic ? cols : fits ? MaxCols : Eigen::Dynamic;
  // Eigen has vectors lie in memory the way they point.
  static constexpr bool row_major = rows == 1 ? true : cols == 1 ? false : RowMajor;
  using type = Eigen::Matrix<S, rows, cols, row_major ? Eigen::RowMajor : Eigen::ColMajor, max_rows,
                             max_cols>;
};

template <class A>
inline constexpr bool is_row_major = std::remove_cvref_t<A>::IsRowMajor;

/// rows(A) x rows(B), as in scores.
template <class S, class A, class B>
using rows_by_rows =
    typename plain_matrix<S, A::RowsAtCompileTime, A::MaxRowsAtCompileTime, B::RowsAtCompileTime,
                          B::MaxRowsAtCompileTime, is_row_major<A>>::type;
/// rows(A) x columns(B), as in products.
template <class S, class A, class B>
using rows_by_cols =
    typename plain_matrix<S, A::RowsAtCompileTime, A::MaxRowsAtCompileTime, B::ColsAtCompileTime,
                          B::MaxColsAtCompileTime, is_row_major<A>>::type;
/// As A, with elements of type S.
template <class S, class A>
using like = rows_by_cols<S, A, A>;

/// `m` as a matrix expression with elements to compute in.
template <class M>
auto computable(const M& m) -> decltype(auto) {
  using scalar = typename M::Scalar;
  if constexpr (std::is_same_v<scalar, accumulator_t<scalar>>) {
    return m.matrix();
  } else {
    return m.matrix().template cast<accumulator_t<scalar>>();
  }
}

/// A plain matrix to work on: `m` itself where it is a temporary that can be reused, else a copy.
template <class M>
auto own(M&& m) {
  using T = std::remove_cvref_t<M>;
  using plain = like<accumulator_t<typename T::Scalar>, T>;
  if constexpr (std::is_same_v<plain, T>) {
    return plain(std::forward<M>(m));
  } else {
    return plain(computable(m));
  }
}

template <class S>
bool is_finite(const S& x) {
  return x - x == S(0);
}

/// Where a block of scores lies in the matrix of scores of a call, and that in its batch.
struct block_place {
  call_shape shape;
  std::int32_t batch = 0;
  std::int32_t head = 0;
  std::int32_t row = 0;

  [[nodiscard]] position at(index i, index j) const {
    const std::int32_t r = row + static_cast<std::int32_t>(i);
    return {batch, head, r, r + shape.offset, static_cast<std::int32_t>(j)};
  }
};

/// s ← score_mod(s, position)
template <class S, class F>
void change_each(S& s, const F& score_mod, const block_place& place) {
  if constexpr (!std::is_same_v<F, identity>) {
    for (index i = 0; i < s.rows(); ++i) {
      for (index j = 0; j < s.cols(); ++j) {
        s.coeffRef(i, j) = change(score_mod, typename S::Scalar(s.coeff(i, j)), place.at(i, j));
      }
    }
  }
}

/// s ← `hidden` where the mask hides: by selection, whatever was there.
template <class S, class M>
void put_where_hidden(S& s, const M& mask, const block_place& place,
                      const typename S::Scalar& hidden) {
  constexpr index keys_at_once = 64;
  for (index first = 0; first < s.cols() && s.rows() > 0; first += keys_at_once) {
    const index keys = std::min(keys_at_once, s.cols() - first);
    const position corner = place.at(0, first);
    const coverage seen =
        mask.cover(tile{corner.batch, corner.head, corner.row, corner.query, corner.key,
                        static_cast<std::int32_t>(s.rows()), static_cast<std::int32_t>(keys)});
    if (seen == coverage::none) s.middleCols(first, keys).setConstant(hidden);
    if (seen != coverage::some) continue;
    for (index i = 0; i < s.rows(); ++i) {
      for (index j = first; j < first + keys; ++j) {
        if (!mask.visible(place.at(i, j))) s.coeffRef(i, j) = hidden;
      }
    }
  }
}

/// s ← s + bias, then -inf where hidden: selected, not added, for -inf + NaN would be NaN.
template <class S, class M>
void hide(S& s, const M& mask, const block_place& place) {
  using scalar = typename S::Scalar;
  if constexpr (AdditiveMask<M>) {
    for (index i = 0; i < s.rows(); ++i) {
      for (index j = 0; j < s.cols(); ++j) {
        const auto bias = mask.bias(place.at(i, j));
        if constexpr (std::floating_point<std::remove_const_t<decltype(bias)>>) {
          s.coeffRef(i, j) += saturated<scalar>(bias);
        } else {
          s.coeffRef(i, j) += convert<scalar>(bias);
        }
      }
    }
  }
  put_where_hidden(s, mask, place, scalar(-std::numeric_limits<scalar>::infinity()));
}

/// What `exponentials` of a row of scores tells.
template <class S>
struct row_sums {
  S m, l;
};

/// Turns a row of scores into exp(s - m), m their maximum, and returns m and l = Σ exp(s - m), the
/// sink among them. Where every score is -inf, m is 0 instead and l = 0: the mark of an empty row.
/// A NaN loses every comparison for m, but not its way into l; +inf gives inf - inf there.
template <class M, class S = typename M::Scalar>
row_sums<S> exponentials(M& s, index i, const S& sink) {
  using std::exp;
  const S lowest(-std::numeric_limits<S>::infinity());
  S m = sink;
  for (index j = 0; j < s.cols(); ++j) {
    if (s.coeff(i, j) > m) m = s.coeff(i, j);
  }
  if (m == lowest) m = S(0);
  for (index j = 0; j < s.cols(); ++j) {
    s.coeffRef(i, j) = exp(S(s.coeff(i, j) - m));
  }
  S l = s.cols() == 0 ? S(0) : S(s.row(i).sum());
  if (sink > lowest) l += exp(S(sink - m));
  return {m, l};
}

template <class S>
S checked_sink(double sink) {
  const bool none = sink == -std::numeric_limits<double>::infinity();
  const S converted = convert<S>(sink);
  require(none || is_finite(converted), "sink is ", sink,
          ", it should be a finite number of the type the call computes in, or -inf for none");
  return converted;
}

template <class S, class Factor>
S checked_scale(Factor scale) {
  const S factor = convert<S>(scale);
  require(is_finite(factor), "scale is ", scale,
          ", it should be a finite number of the type the call computes in");
  return factor;
}

/// Whether a row of zeros in the weights is one that sees nothing: not where a sink may have taken
/// them all.
enum class zeros { empty, weights };
constexpr zeros zeros_with(double sink) {
  return sink > -std::numeric_limits<double>::infinity() ? zeros::weights : zeros::empty;
}

/// out = p v again, where that met numbers in v that are not finite: every such number reaches only
/// the rows that see its key, and an empty row is 0. The finite part goes through the
/// same product as ever, so that a row that sees nothing else keeps its bits.
template <class O, class P, class V, class M>
void keep_hidden_out(O& out, const P& p, const V& v, const M& mask, const block_place& place,
                     zeros rows_of_zeros) {
  using scalar = typename O::Scalar;
  like<scalar, V> finite = v;
  for (index j = 0; j < v.rows(); ++j) {
    for (index c = 0; c < v.cols(); ++c) {
      if (!is_finite(scalar(v.coeff(j, c)))) finite.coeffRef(j, c) = scalar(0);
    }
  }
  out.noalias() = p * finite;
  for (index j = 0; j < v.rows(); ++j) {
    for (index c = 0; c < v.cols(); ++c) {
      if (is_finite(scalar(v.coeff(j, c)))) continue;
      for (index i = 0; i < p.rows(); ++i) {
        if (mask.visible(place.at(i, j))) out.coeffRef(i, c) += p.coeff(i, j) * v.coeff(j, c);
      }
    }
  }
  for (index i = 0; i < p.rows() && rows_of_zeros == zeros::empty; ++i) {
    bool empty = true;
    for (index j = 0; j < p.cols(); ++j) empty = empty && p.coeff(i, j) == scalar(0);
    if (empty && out.cols() > 0) out.row(i).setConstant(scalar(0));
  }
}

/// Σ_j p_ij v_j over the keys that row i sees. A weight of 0 is enough to keep a hidden key out,
/// but for values that are not finite, which always show in the product: then it is done with care.
template <class P, class V, class M>
auto weighted_sum(const P& p, const V& v, const M& mask, const block_place& place,
                  zeros rows_of_zeros = zeros::empty) {
  using scalar = typename P::Scalar;
  rows_by_cols<scalar, P, V> out;
  out.noalias() = p * computable(v);
  for (index i = 0; i < out.size(); ++i) {
    if (!is_finite(scalar(out.coeff(i % out.rows(), i / out.rows())))) {
      keep_hidden_out(out, p, own(v), mask, place, rows_of_zeros);
      break;
    }
  }
  return out;
}

template <class M, class S>
block_place whole(const M& mask, const S& s, const alignment& given) {
  const call_shape shape = make_call_shape(s.rows(), s.cols(), given, positional_mask<M>);
  check(mask, shape);
  return {shape};
}

template <class A>
constexpr void require_real() {
  using scalar = typename A::Scalar;
  static_assert(!Eigen::NumTraits<scalar>::IsInteger && !Eigen::NumTraits<scalar>::IsComplex,
                "attn: attention is computed on real floating-point numbers: cast integers.");
}

/// Sizes that are both fixed and differ fail to compile.
template <int A, int B>
inline constexpr bool may_be_equal = A == B || A == Eigen::Dynamic || B == Eigen::Dynamic;

}  // namespace detail

/// S = Q Kᵀ: the dot product of each query with each key.
/// query: Lq x d, key: Lk x d, both of one scalar type. Returns Lq x Lk of its accumulator_t, in
/// the query's storage order. Throws std::invalid_argument where the numbers of columns differ.
template <class Q, class K>
auto score(const Eigen::DenseBase<Q>& query, const Eigen::DenseBase<K>& key) {
  detail::require_real<Q>();
  static_assert(std::is_same_v<typename Q::Scalar, typename K::Scalar>,
                "attn: query and key should have one scalar type: cast one of them.");
  static_assert(detail::may_be_equal<Q::ColsAtCompileTime, K::ColsAtCompileTime>,
                "attn: key and query should have the same number of columns.");
  detail::require(query.cols() == key.cols(), "key has ", key.cols(), " columns, query has ",
                  query.cols());
  detail::rows_by_rows<accumulator_t<typename Q::Scalar>, Q, K> s;
  s.noalias() = detail::computable(query.derived()) * detail::computable(key.derived()).transpose();
  return s;
}

/// factor · S, where factor is 1/√d in the usual case: it keeps the variance of the scores at that
/// of the inputs, and so the softmax out of saturation, as d grows (Vaswani et al. 2017, §3.2.1).
/// Throws std::invalid_argument unless the factor is finite.
template <detail::EigenDense S, class Factor>
  requires std::is_arithmetic_v<Factor>
auto scale(S&& scores, Factor factor) {
  detail::require_real<std::remove_cvref_t<S>>();
  auto s = detail::own(std::forward<S>(scores));
  s *= detail::checked_scale<typename decltype(s)::Scalar>(factor);
  return s;
}

/// Every score changed by `score_mod`, a function (score, position) -> score or (score) -> score.
/// Throws std::invalid_argument where the change does not fit the scores, or looks at positions in
/// scores that are not square and no alignment is given.
template <detail::EigenDense S, class F>
auto apply_score_mod(S&& scores, const F& score_mod, const attn::alignment& alignment = {}) {
  detail::require_real<std::remove_cvref_t<S>>();
  auto s = detail::own(std::forward<S>(scores));
  const call_shape shape = detail::make_call_shape(
      s.rows(), s.cols(), alignment, positional_score_mod<F, typename decltype(s)::Scalar>);
  detail::check(score_mod, shape);
  detail::change_each(s, score_mod, detail::block_place{shape});
  return s;
}

/// The scores with the mask's bias added where it has one, then -inf where it hides a key. `mask`
/// is whatever `as_mask` takes. Throws std::invalid_argument where the mask does not fit the
/// scores, or looks at positions in scores that are not square and no alignment is given.
template <detail::EigenDense S, class M>
auto apply_mask(S&& scores, M&& mask, const attn::alignment& alignment = {}) {
  detail::require_real<std::remove_cvref_t<S>>();
  auto s = detail::own(std::forward<S>(scores));
  const auto& checked = as_mask(mask);
  detail::hide(s, checked, detail::whole(checked, s, alignment));
  return s;
}

/// P_ij = exp(s_ij - m_i) / l_i, row by row, with m_i = max_j s_ij and l_i = Σ_j exp(s_ij - m_i):
/// stable, for no exponential exceeds 1. Rows sum to 1. A row of -inf alone gives 0; one that holds
/// a NaN or +inf gives NaN. A sink takes part in m and l like one more score.
template <detail::EigenDense S>
auto softmax(S&& scores, double sink = -std::numeric_limits<double>::infinity()) {
  detail::require_real<std::remove_cvref_t<S>>();
  auto p = detail::own(std::forward<S>(scores));
  using scalar = typename decltype(p)::Scalar;
  const auto sink_score = detail::checked_sink<scalar>(sink);
  for (index i = 0; i < p.rows(); ++i) {
    const scalar l = detail::exponentials(p, i, sink_score).l;
    if (p.cols() > 0 && !(l == scalar(0))) p.row(i) /= l;
  }
  return p;
}

/// m_i + ln l_i = ln Σ_j exp(s_ij), row by row, with m and l as in `softmax`: a vector of Lq
/// numbers in the natural logarithm; -inf for a row of -inf alone, NaN for one that holds a NaN or
/// +inf.
template <detail::EigenDense S>
auto log_sum_exp(S&& scores, double sink = -std::numeric_limits<double>::infinity()) {
  using std::log;
  detail::require_real<std::remove_cvref_t<S>>();
  auto e = detail::own(std::forward<S>(scores));
  using matrix = decltype(e);
  using scalar = typename matrix::Scalar;
  const auto sink_score = detail::checked_sink<scalar>(sink);
  typename detail::plain_matrix<scalar, matrix::RowsAtCompileTime, matrix::MaxRowsAtCompileTime, 1,
                                1, false>::type result(e.rows());
  for (index i = 0; i < e.rows(); ++i) {
    const auto [m, l] = detail::exponentials(e, i, sink_score);
    result.coeffRef(i) =
        l == scalar(0) ? scalar(-std::numeric_limits<scalar>::infinity()) : scalar(m + log(l));
  }
  return result;
}

/// O = P V over the keys that a mask leaves visible: nothing of a hidden value, NaN and inf
/// included, reaches the row. weights: Lq x Lk, value: Lk x dv; returns Lq x dv. A row whose
/// weights are all 0 gives 0. Throws std::invalid_argument where shapes differ, or as `apply_mask`
/// does.
template <class P, class V, class M>
auto weighted_sum(const Eigen::DenseBase<P>& weights, const Eigen::DenseBase<V>& value, M&& mask,
                  const attn::alignment& alignment = {}) {
  detail::require_real<P>();
  static_assert(
      std::is_same_v<accumulator_t<typename P::Scalar>, accumulator_t<typename V::Scalar>>,
      "attn: weights and value should have one scalar type: cast one of them.");
  static_assert(detail::may_be_equal<P::ColsAtCompileTime, V::RowsAtCompileTime>,
                "attn: value should have as many rows as the weights have columns.");
  detail::require(weights.cols() == value.rows(), "value has ", value.rows(),
                  " rows, weights have ", weights.cols(), " columns");
  const auto& checked = as_mask(mask);
  const detail::block_place place = detail::whole(checked, weights.derived(), alignment);
  auto p = detail::own(weights.derived());
  detail::put_where_hidden(p, checked, place, typename decltype(p)::Scalar(0));
  return detail::weighted_sum(p, value.derived(), checked, place);
}

/// O = P V: the mean of the values, weighted by each row of P. As above without a mask.
template <class P, class V>
auto weighted_sum(const Eigen::DenseBase<P>& weights, const Eigen::DenseBase<V>& value) {
  return weighted_sum(weights, value, none{});
}

}  // namespace attn::inline ATTN_ABI
