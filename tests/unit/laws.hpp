// Laws that every implementation of the call obeys, over any problem, mask and score change.
// The call is a parameter: f(q, k, v, mask, score_mod, options) -> out.
#pragma once

#include <attn/attention.hpp>

#include "support/catch.hpp"
#include "support/generate.hpp"
#include "support/reference.hpp"
#include "support/tolerances.hpp"

namespace attn_test {

struct one_call {
  template <class Q, class K, class V, class M, class F>
  auto operator()(const Q& q, const K& k, const V& v, const M& mask, const F& score_mod,
                  const attn::options& options) const {
    return attn::scaled_dot_product_attention(q, k, v, mask, score_mod, options);
  }
};

template <class Scalar>
struct outcome {
  matrix<Scalar> out;
  matrix<accumulator<Scalar>> weights;
  vector<accumulator<Scalar>> log_sum_exp;
};

// The problem's numbers through the call; what a mask and a score change mean stays with the
// caller.
template <class Scalar, class Call, class M, class F>
outcome<Scalar> run(Call call, const problem<Scalar>& p, const M& mask, const F& score_mod,
                    const attn::executor& executor = {}) {
  outcome<Scalar> o;
  o.out = call(p.q, p.k, p.v, mask, score_mod,
               attn::options{.alignment = attn::offset(p.offset),
                             .executor = executor,
                             .log_sum_exp = o.log_sum_exp,
                             .scale = p.scale,
                             .sink = p.sink,
                             .weights = o.weights});
  return o;
}
template <class Scalar, class Call>
outcome<Scalar> run(Call call, const problem<Scalar>& p, const any_mask& mask = attn::none()) {
  return run(call, p, mask, attn::identity());
}

template <class Scalar>
void check_against(const expectation<Scalar>& expected, const outcome<Scalar>& o) {
  CHECK(expected.against(o.out) == "");
  CHECK(expected.against_weights(o.weights) == "");
  CHECK(expected.against_log_sum_exp(o.log_sum_exp) == "");
}

// Equal to the sign of a zero; one NaN is like another.
template <class A, class B>
bool same_bits(const A& a, const B& b) {
  if (a.rows() != b.rows() || a.cols() != b.cols()) return false;
  for (index i = 0; i < a.rows(); ++i) {
    for (index j = 0; j < a.cols(); ++j) {
      const auto x = static_cast<long double>(a(i, j)), y = static_cast<long double>(b(i, j));
      if (std::isnan(x) != std::isnan(y)) return false;
      if (!std::isnan(x) && (x != y || std::signbit(x) != std::signbit(y))) return false;
    }
  }
  return true;
}
template <class Scalar>
bool same_bits(const outcome<Scalar>& a, const outcome<Scalar>& b) {
  return same_bits(a.out, b.out) && same_bits(a.weights, b.weights) &&
         same_bits(a.log_sum_exp, b.log_sum_exp);
}

template <class Scalar>
bool all_nan(const matrix<Scalar>& m, index row) {
  for (index c = 0; c < m.cols(); ++c) {
    if (!std::isnan(static_cast<double>(m(row, c)))) return false;
  }
  return true;
}

// Each row of weights is 0 or more and sums to 1, or is 0 where the row sees nothing; with a sink,
// to what the sink leaves.
template <class Scalar>
void law_rows_sum_to_one(const problem<Scalar>& p, const outcome<Scalar>& o) {
  using Narrow = accumulator<Scalar>;
  for (index i = 0; i < o.weights.rows(); ++i) {
    long double sum = 0;
    bool sees = false;
    for (index j = 0; j < o.weights.cols(); ++j) {
      const bool visible = !p.visible || p.visible(place{i, i + p.offset, j});
      const Narrow weight = o.weights(i, j);
      sees = sees || visible;
      if (!visible || weight < 0) {
        INFO("row " << i << ", key " << j);
        REQUIRE(weight == 0);
      }
      sum += static_cast<long double>(weight);
    }
    const auto lse = static_cast<long double>(o.log_sum_exp(i));
    const long double left = 1 - std::exp(static_cast<long double>(p.sink) - lse);
    long double allowed = tolerance::row_sum<Narrow>(o.weights.cols());
    if (std::isfinite(p.sink)) allowed += tolerance::log_sum_exp<Narrow>(0.0L, lse);
    CAPTURE(i);
    CHECK(std::abs(sum - (sees ? left : 0)) <= allowed);
  }
}

// An output lies between the smallest and the largest value that its row sees, and 0 with a sink.
template <class Scalar>
void law_outputs_are_means(const problem<Scalar>& p, const outcome<Scalar>& o) {
  const double largest = p.v.size() == 0 ? 0.0 : static_cast<double>(p.v.cwiseAbs().maxCoeff());
  const double slack =
      largest * (tolerance::eps<Scalar>() +
                 static_cast<double>(tolerance::row_sum<accumulator<Scalar>>(p.k.rows())));
  for (index i = 0; i < o.out.rows(); ++i) {
    for (index c = 0; c < o.out.cols(); ++c) {
      const bool has_sink = std::isfinite(p.sink);
      double low = has_sink ? 0 : largest, high = has_sink ? 0 : -largest;
      bool sees = false;
      for (index j = 0; j < p.k.rows(); ++j) {
        if (p.visible && !p.visible(place{i, i + p.offset, j})) continue;
        sees = true;
        low = std::min(low, static_cast<double>(p.v(j, c)));
        high = std::max(high, static_cast<double>(p.v(j, c)));
      }
      const auto x = static_cast<double>(o.out(i, c));
      INFO("out(" << i << ", " << c << ") is " << x);
      if (sees) {
        CHECK((x >= low - slack && x <= high + slack));
      } else {
        CHECK(x == 0);
      }
    }
  }
}

// Rows that see nothing: 0, weights 0, and the sink (-inf without one) as log_sum_exp.
template <class Scalar>
index law_empty_rows(const problem<Scalar>& p, const outcome<Scalar>& o) {
  index empty = 0;
  for (index i = 0; i < o.out.rows(); ++i) {
    bool sees = false;
    for (index j = 0; j < p.k.rows(); ++j) {
      sees = sees || !p.visible || p.visible(place{i, i + p.offset, j});
    }
    if (sees) continue;
    ++empty;
    CAPTURE(i);
    CHECK((o.out.row(i).array() == Scalar(0)).all());
    CHECK((o.weights.row(i).array() == 0).all());
    CHECK(o.log_sum_exp(i) == static_cast<accumulator<Scalar>>(p.sink));
  }
  return empty;
}

// The call's result, checked against the reference.
template <class Scalar, class M>
outcome<Scalar> checked(const problem<Scalar>& p, const M& mask) {
  const auto o = run(one_call(), p, mask, attn::identity());
  check_against(expect(p), o);
  law_empty_rows(p, o);
  return o;
}

}  // namespace attn_test
