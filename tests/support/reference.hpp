// Attention in plain loops, written from its definition, to test everything else against.
// It shares no code with the library; Eigen serves as a container only.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <optional>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

#include "support/tolerances.hpp"

namespace attn_test {

using index = std::ptrdiff_t;

template <class Scalar>
using matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class Scalar>
using vector = Eigen::Matrix<Scalar, Eigen::Dynamic, 1>;

template <class Scalar>
constexpr bool is_16_bit =
    std::is_same_v<Scalar, Eigen::half> || std::is_same_v<Scalar, Eigen::bfloat16>;

// What scores, sums and log-sum-exps are kept in ...
template <class Scalar>
using accumulator = std::conditional_t<is_16_bit<Scalar>, float, Scalar>;
// ... and what the reference sums in: at least 11 bits more, but for long double.
template <class Scalar>
using wide = std::conditional_t<std::is_same_v<accumulator<Scalar>, float>, double, long double>;

// Where a score stands: row i of the queries, at position p = i + offset, against key j.
struct place {
  index row = 0, query = 0, key = 0, head = 0, batch = 0;
};

// A score change, once in the arithmetic under test and once in the reference's.
template <class Scalar>
class score_change {
 public:
  score_change() = default;
  template <class F>
    requires(!std::is_same_v<std::remove_cvref_t<F>, score_change>)
  score_change(F f) : narrow_(f), wide_(f) {}

  explicit operator bool() const { return static_cast<bool>(wide_); }

  template <class Number>
  Number operator()(Number s, place at) const {
    if constexpr (std::is_same_v<Number, accumulator<Scalar>>) {
      return narrow_(s, at);
    } else {
      return wide_(s, at);
    }
  }

 private:
  std::function<accumulator<Scalar>(accumulator<Scalar>, place)> narrow_;
  std::function<wide<Scalar>(wide<Scalar>, place)> wide_;
};

// One head of one sequence. What is left empty is left out of the formula.
template <class Scalar>
struct problem {
  matrix<Scalar> q, k, v;
  std::optional<double> scale = std::nullopt;
  index offset = 0;
  std::function<bool(place)> visible = nullptr;
  std::function<double(place)> bias = nullptr;  // -inf hides
  score_change<Scalar> change = {};
  double sink = -std::numeric_limits<double>::infinity();
  index head = 0, batch = 0;
};

template <class Number>
struct answer {
  matrix<Number> out, weights;
  vector<Number> log_sum_exp;
  Number largest_score = 0;  // by magnitude, of the finite ones that are seen
};

template <class Number, class Derived>
std::vector<Number> row_by_row(const Eigen::DenseBase<Derived>& x) {
  std::vector<Number> values;
  values.reserve(static_cast<std::size_t>(x.size()));
  for (index i = 0; i < x.rows(); ++i) {
    for (index j = 0; j < x.cols(); ++j) {
      values.push_back(static_cast<Number>(x.derived().coeff(i, j)));
    }
  }
  return values;
}

// The scores of row i, -inf where hidden, each step rounded to the type under test: a reference
// that kept more digits would part from any implementation at scores of 1e4, and not overflow.
template <class Number, class Scalar>
void scores_of_row(const problem<Scalar>& p, index i, const Number* q, const std::vector<Number>& k,
                   std::vector<Number>& s, std::vector<char>& seen) {
  const auto rounded = [](Number x) {
    return static_cast<Number>(static_cast<accumulator<Scalar>>(x));
  };
  const index d = p.q.cols();
  const long double by_default = d == 0 ? 1 : 1 / std::sqrt(static_cast<long double>(d));
  const auto scale = static_cast<Number>(p.scale ? *p.scale : by_default);
  for (index j = 0; j < p.k.rows(); ++j) {
    const place at{i, i + p.offset, j, p.head, p.batch};
    const auto n = static_cast<std::size_t>(j);
    const double bias = p.bias ? p.bias(at) : 0.0;
    seen[n] = (!p.visible || p.visible(at)) && bias != -std::numeric_limits<double>::infinity();
    s[n] = -std::numeric_limits<Number>::infinity();
    if (!seen[n]) continue;
    Number dot = 0;
    for (index c = 0; c < d; ++c) dot += q[c] * k[static_cast<std::size_t>(j * d + c)];
    Number x = rounded(scale * rounded(dot));
    if (p.change) x = rounded(p.change(x, at));
    s[n] = p.bias ? rounded(x + static_cast<Number>(bias)) : x;
  }
}

// evaluate<wide<Scalar>> is the reference, evaluate<accumulator<Scalar>> the plain formula in the
// type under test, whose own error says how large an error is to be expected.
template <class Number, class Scalar>
answer<Number> evaluate(const problem<Scalar>& p) {
  const index queries = p.q.rows(), keys = p.k.rows(), d = p.q.cols(), dv = p.v.cols();
  const auto q = row_by_row<Number>(p.q), k = row_by_row<Number>(p.k), v = row_by_row<Number>(p.v);
  const Number minus_infinity = -std::numeric_limits<Number>::infinity();
  const auto sink = static_cast<Number>(static_cast<accumulator<Scalar>>(p.sink));

  answer<Number> a{matrix<Number>::Zero(queries, dv), matrix<Number>::Zero(queries, keys),
                   vector<Number>::Constant(queries, sink)};
  std::vector<Number> s(static_cast<std::size_t>(keys));
  std::vector<char> seen(s.size());
  for (index i = 0; i < queries; ++i) {
    scores_of_row(p, i, q.data() + i * d, k, s, seen);
    Number m = minus_infinity;
    bool nan = false;
    for (const Number x : s) {
      nan = nan || std::isnan(x);
      m = x > m ? x : m;
      if (std::isfinite(x)) a.largest_score = std::max(a.largest_score, std::abs(x));
    }
    if (!nan && m == minus_infinity) continue;  // an empty row: 0, 0 and the sink
    m = nan ? std::numeric_limits<Number>::quiet_NaN() : (m > sink ? m : sink);
    Number l = sink == minus_infinity ? 0 : std::exp(sink - m);
    for (const Number x : s) l += std::exp(x - m);
    a.log_sum_exp(i) = m + std::log(l);
    for (index j = 0; j < keys; ++j) {
      const auto n = static_cast<std::size_t>(j);
      const Number weight = std::exp(s[n] - m) / l;
      a.weights(i, j) = weight;
      if (!seen[n]) continue;
      for (index c = 0; c < dv; ++c) {
        a.out(i, c) += weight * v[static_cast<std::size_t>(j * dv + c)];
      }
    }
  }
  return a;
}

// The first entry that is farther from the truth than allowed, in words; empty where none is.
template <class Wide, class Found>
std::string disagreement(const char* name, const matrix<Wide>& exact, const matrix<Wide>& allowed,
                         const Found& found, bool nan_or_infinity_is_open) {
  std::ostringstream text;
  if (found.rows() != exact.rows() || found.cols() != exact.cols()) {
    text << name << " is " << found.rows() << " x " << found.cols() << ", expected " << exact.rows()
         << " x " << exact.cols();
    return text.str();
  }
  for (index i = 0; i < exact.rows(); ++i) {
    for (index j = 0; j < exact.cols(); ++j) {
      const Wide expected = exact(i, j), x = static_cast<Wide>(found.coeff(i, j));
      const bool good = std::isfinite(expected)   ? std::abs(x - expected) <= allowed(i, j)
                        : nan_or_infinity_is_open ? !std::isfinite(x)
                        : std::isnan(expected)    ? std::isnan(x)
                                                  : x == expected;
      if (good) continue;
      text.precision(std::numeric_limits<Wide>::max_digits10);
      text << name << '(' << i << ", " << j << ") is " << x << ", expected " << expected << " +- "
           << allowed(i, j);
      return text.str();
    }
  }
  return {};
}

// What a correct implementation gives, and how far from it a good one may be.
template <class Scalar>
struct expectation {
  answer<wide<Scalar>> exact;
  matrix<wide<Scalar>> out_error, weights_error, log_sum_exp_error;  // allowed, entry by entry
  bool infinite_value = false;  // some row sees an infinite value: NaN or inf is then open

  template <class Out>
  std::string against(const Eigen::DenseBase<Out>& out) const {
    return disagreement("out", exact.out, out_error, out.derived(), infinite_value);
  }
  template <class Weights>
  std::string against_weights(const Eigen::DenseBase<Weights>& weights) const {
    return disagreement("weights", exact.weights, weights_error, weights.derived(), false);
  }
  template <class Lse>
  std::string against_log_sum_exp(const Eigen::DenseBase<Lse>& lse) const {
    return disagreement("log_sum_exp", matrix<wide<Scalar>>(exact.log_sum_exp), log_sum_exp_error,
                        lse.derived(), false);
  }
};

template <class Wide, class Plain>
Wide largest_error(const matrix<Wide>& exact, const Plain& plain) {
  Wide largest = 0;
  for (index i = 0; i < exact.rows(); ++i) {
    for (index j = 0; j < exact.cols(); ++j) {
      const Wide error = std::abs(static_cast<Wide>(plain.coeff(i, j)) - exact(i, j));
      if (error > largest && std::isfinite(error)) largest = error;
    }
  }
  return largest;
}

template <class Scalar>
expectation<Scalar> expect(const problem<Scalar>& p) {
  using Wide = wide<Scalar>;
  using Narrow = accumulator<Scalar>;
  expectation<Scalar> e{evaluate<Wide>(p), {}, {}, {}};
  const answer<Narrow> plain = evaluate<Narrow>(p);

  Wide largest_value = 0;  // among those that some row sees
  for (index j = 0; j < p.v.rows(); ++j) {
    bool seen = false;
    for (index i = 0; i < p.q.rows() && !seen; ++i) {
      const place at{i, i + p.offset, j, p.head, p.batch};
      seen = !p.visible || p.visible(at);
    }
    for (index c = 0; seen && c < p.v.cols(); ++c) {
      const Wide value = std::abs(static_cast<Wide>(p.v(j, c)));
      e.infinite_value = e.infinite_value || std::isinf(value);
      if (std::isfinite(value) && value > largest_value) largest_value = value;
    }
  }
  Wide out_error = largest_error(e.exact.out, plain.out.template cast<Scalar>());
  Wide weights_error = largest_error(e.exact.weights, plain.weights);
  Wide lse_error = largest_error(matrix<Wide>(e.exact.log_sum_exp), plain.log_sum_exp);
  if constexpr (std::is_same_v<Wide, Narrow>) {  // nothing wider to measure the plain formula by
    lse_error = tolerance::unmeasured<Wide>(e.exact.largest_score);
    weights_error = lse_error;
    out_error = lse_error * largest_value;
  }
  e.out_error = matrix<Wide>::Constant(e.exact.out.rows(), e.exact.out.cols(),
                                       tolerance::out<Scalar>(out_error, largest_value));
  e.weights_error = matrix<Wide>::Constant(e.exact.weights.rows(), e.exact.weights.cols(),
                                           tolerance::out<Narrow>(weights_error, Wide(1)));
  e.log_sum_exp_error = e.exact.log_sum_exp.unaryExpr(
      [&](Wide lse) { return tolerance::log_sum_exp<Narrow>(lse_error, lse); });
  return e;
}

}  // namespace attn_test
