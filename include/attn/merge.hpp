// Results over parts of the keys, put together: for a prefix that many sequences share and that is
// attended to once, for keys on several machines.
#pragma once

#include <attn/input.hpp>
#include <attn/memory_overlap.hpp>
#include <attn/output.hpp>
#include <attn/stages.hpp>
#include <cmath>
#include <limits>

namespace attn::inline ATTN_ABI {
namespace detail {

/// Throws where what is written shares memory with anything else, as far as that has memory: not so
/// expressions.
template <class O, class L, class P, class N>
void check_apart(const O& out, const L& log_sum_exp, const P& other_out,
                 const N& other_log_sum_exp) {
  const auto apart = []<class A, class B>(std::string_view name, const A& a,
                                          std::string_view other_name, const B& b) {
    if constexpr (Readable<A> && Readable<B>) {
      require(!may_overlap(footprint_of(a), footprint_of(b)), name, " overlaps ", other_name,
              " in memory");
    }
  };
  apart("out", out, "log_sum_exp", log_sum_exp);
  apart("out", out, "other_out", other_out);
  apart("out", out, "other_log_sum_exp", other_log_sum_exp);
  apart("log_sum_exp", log_sum_exp, "other_out", other_out);
  apart("log_sum_exp", log_sum_exp, "other_log_sum_exp", other_log_sum_exp);
}

/// `merge_into` after its checks.
template <class O, class L, class P, class N>
void merge_rows(O& out, L& log_sum_exp, const P& other_out, const N& other_log_sum_exp) {
  using std::exp;
  using std::log;
  using scalar = typename L::Scalar;
  const scalar lowest = -std::numeric_limits<scalar>::infinity();
  const auto at = [](auto& vector, index i) -> decltype(auto) {
    return vector.rows() == 1 ? vector.coeffRef(0, i) : vector.coeffRef(i, 0);
  };
  const auto of = [](const auto& vector, index i) {
    return vector.rows() == 1 ? vector.coeff(0, i) : vector.coeff(i, 0);
  };
  for (index i = 0; i < out.rows(); ++i) {
    const scalar a = of(log_sum_exp, i);
    const scalar b = of(other_log_sum_exp, i);
    if (b == lowest) continue;
    if (a == lowest) {
      out.row(i) = other_out.row(i);
      at(log_sum_exp, i) = b;
      continue;
    }
    const scalar m = a < b ? b : a;
    const scalar of_a = exp(scalar(a - m));
    const scalar of_b = exp(scalar(b - m));
    const scalar sum = of_a + of_b;
    for (index c = 0; c < out.cols(); ++c) {
      auto& x = out.coeffRef(i, c);
      const auto y = detail::convert<scalar>(other_out.coeff(i, c));
      x = detail::convert<typename O::Scalar>(  // shares of 1, for the sum might overflow
          scalar((of_a / sum) * detail::convert<scalar>(x) + (of_b / sum) * y));
    }
    at(log_sum_exp, i) = m + log(sum);
  }
}

}  // namespace detail

/// Puts results over disjoint sets of keys together, in place, row by row:
///
///     m = max(a, b);  out = (exp(a - m) out + exp(b - m) other) / (exp(a - m) + exp(b - m))
///     a = m + ln(exp(a - m) + exp(b - m))         with a, b the log-sum-exps
///
/// which is the attention to all of the keys, up to rounding (Liu, Zaharia, Abbeel: Ring Attention
/// with Blockwise Transformers, 2023, §3). A result over no keys is (0, -inf) and changes nothing.
/// Leave sinks out of the parts: add one last by merging with (0, sink).
///
/// out, other_out: L x dv, of one scalar type; log_sum_exp, other_log_sum_exp: L numbers, of one
/// that may be wider. Throws std::invalid_argument where shapes differ, or out or log_sum_exp
/// shares memory with another; nothing is written then.
template <detail::EigenDense O, detail::EigenDense L, class P, class N>
void merge_into(O&& out, L&& log_sum_exp, const Eigen::DenseBase<P>& other_out,
                const Eigen::DenseBase<N>& other_log_sum_exp) {
  static_assert(detail::Writable<O> && detail::Writable<L>,
                "attn: merge_into writes to out and log_sum_exp: matrices, Maps, Blocks or Refs, "
                "not a constant, a temporary or an expression.");
  static_assert(std::is_same_v<typename std::remove_cvref_t<L>::Scalar, typename N::Scalar>,
                "attn: both log-sum-exps should have one scalar type.");
  static_assert(std::is_same_v<typename std::remove_cvref_t<O>::Scalar, typename P::Scalar>,
                "attn: both results should have one scalar type.");
  detail::require(other_out.rows() == out.rows() && other_out.cols() == out.cols(), "other_out is ",
                  other_out.rows(), " x ", other_out.cols(), ", out is ", out.rows(), " x ",
                  out.cols());
  const auto require_vector = [&](std::string_view name, index rows, index cols) {
    detail::require(rows == 1 || cols == 1, name, " is ", rows, " x ", cols,
                    ", it should be a vector");
    detail::require(rows * cols == out.rows(), name, " has ", rows * cols, " numbers, out has ",
                    out.rows(), " rows");
  };
  require_vector("log_sum_exp", log_sum_exp.rows(), log_sum_exp.cols());
  require_vector("other_log_sum_exp", other_log_sum_exp.rows(), other_log_sum_exp.cols());
  detail::check_apart(out, log_sum_exp, other_out.derived(), other_log_sum_exp.derived());
  detail::merge_rows(out, log_sum_exp, other_out.derived(), other_log_sum_exp.derived());
}

/// The same for every head of every sequence: out is B x H x L x dv, log_sum_exp B x H x L x 1.
template <class T, class S, detail::HeadsLike P, detail::HeadsLike N>
void merge_into(const heads_view<T>& out, const heads_view<S>& log_sum_exp, const P& other_out,
                const N& other_log_sum_exp) {
  const auto other = detail::as_heads(other_out);
  const auto other_lse = detail::as_heads(other_log_sum_exp);
  detail::require(other.shape() == out.shape(), "other_out has the shape ", other.shape(),
                  ", out has ", out.shape());
  heads_shape of_lse = out.shape();
  of_lse.width = 1;
  detail::require(log_sum_exp.shape() == of_lse, "log_sum_exp has the shape ", log_sum_exp.shape(),
                  ", it should have ", of_lse);
  detail::require(other_lse.shape() == of_lse, "other_log_sum_exp has the shape ",
                  other_lse.shape(), ", it should have ", of_lse);
  detail::check_apart(out, log_sum_exp, other, other_lse);
  for (index b = 0; b < out.batch(); ++b) {
    for (index h = 0; h < out.heads(); ++h) {
      auto head = out.head(b, h);
      auto lse = log_sum_exp.head(b, h);
      detail::merge_rows(head, lse, other.head(b, h), other_lse.head(b, h));
    }
  }
}
/// The same into arrays.
template <class T, class S, detail::HeadsLike P, detail::HeadsLike N>
void merge_into(heads_array<T>& out, heads_array<S>& log_sum_exp, const P& other_out,
                const N& other_log_sum_exp) {
  merge_into(out.view(), log_sum_exp.view(), other_out, other_log_sum_exp);
}

}  // namespace attn::inline ATTN_ABI
