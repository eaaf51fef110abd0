// The gradients of attention in plain loops, written from the definition, to test the backward pass
// against. It shares no code with the library.
#pragma once

#include <array>

#include "support/reference.hpp"

namespace attn_test {

// What has a gradient. Bias: a row a query and a column a key. Table: a column of entries. Slope
// and sink: a single number.
enum part : std::size_t { of_query, of_key, of_value, of_bias, of_table, of_slope, of_sink };
inline constexpr std::array every_part{of_query, of_key,   of_value, of_bias,
                                       of_table, of_slope, of_sink};
inline const char* name_of(part n) {
  static constexpr std::array names{"query", "key", "value", "bias", "table", "slope", "sink"};
  return names.at(n);
}

template <class Number>
using gradient_matrices = std::array<matrix<Number>, every_part.size()>;

// One head of one sequence, what came back for its results, and what can be learned in it.
template <class Scalar>
struct gradient_problem {
  problem<Scalar> forward;
  matrix<Scalar> out_gradient;
  vector<Scalar> log_sum_exp_gradient = {};     // empty: the loss does not depend on it
  std::function<double(place)> kept = nullptr;  // what dropout multiplies a weight by
  score_change<Scalar> derivative = {};         // of the score change by the score; empty: 1
  score_change<Scalar> by_slope = {};           // ... by the slope of an alibi
  score_change<Scalar> by_entry = {};           // ... by the entry of a table that a pair reads
  std::function<index(place)> entry = nullptr;  // and which one that is
  index entries = 0;

  bool sees(const place& at) const {
    return (!forward.visible || forward.visible(at)) &&
           !(forward.bias && forward.bias(at) == -std::numeric_limits<double>::infinity());
  }
  place at(index i, index j) const {
    return {i, i + forward.offset, j, forward.head, forward.batch};
  }
};

// Sums, and those of their terms' magnitudes, which say what rounding may come to.
template <class Number>
struct gradient_sums {
  gradient_matrices<Number> sum, magnitude;
  Number largest_exponent = 0;  // of scores and log-sum-exps: weights err by an eps of it

  gradient_sums(index queries, index keys, index d, index dv, index entries)
      : sum{matrix<Number>::Zero(queries, d), matrix<Number>::Zero(keys, d),
            matrix<Number>::Zero(keys, dv),   matrix<Number>::Zero(queries, keys),
            matrix<Number>::Zero(entries, 1), matrix<Number>::Zero(1, 1),
            matrix<Number>::Zero(1, 1)},
        magnitude(sum) {}
};

// A number with the magnitude of what it was summed from.
template <class Number>
struct weighed {
  Number value = 0, magnitude = 0;

  weighed() = default;
  explicit weighed(Number x) : value(x), magnitude(std::abs(x)) {}
  weighed(Number x, Number size) : value(x), magnitude(size) {}
  friend weighed operator-(weighed a, weighed b) {
    return {a.value - b.value, a.magnitude + b.magnitude};
  }
  friend weighed operator*(weighed a, Number b) { return {a.value * b, a.magnitude * std::abs(b)}; }
  weighed& operator+=(weighed b) { return *this = {value + b.value, magnitude + b.magnitude}; }
};

template <class Number>
void add(gradient_sums<Number>& to, part n, index i, index j, weighed<Number> term) {
  to.sum[n](i, j) += term.value;
  to.magnitude[n](i, j) += term.magnitude;
}

template <class Number, class A, class B>
weighed<Number> inner_product(const A& a, const B& b) {
  weighed<Number> sum;
  for (index c = 0; c < a.size(); ++c) {
    sum += weighed<Number>(static_cast<Number>(a(c)) * static_cast<Number>(b(c)));
  }
  return sum;
}

// What a pair that sees each other adds by its score: by the gradient of it after the change.
template <class Number, class Scalar>
void add_pair(const gradient_problem<Scalar>& g, const place& at, Number scale,
              weighed<Number> after, gradient_sums<Number>& to) {
  const problem<Scalar>& p = g.forward;
  const auto q = p.q.row(at.row), k = p.k.row(at.key);
  add(to, of_bias, at.row, at.key, after);
  weighed<Number> before = after;
  if (p.change) {
    const Number x = scale * inner_product<Number>(q, k).value;
    if (g.derivative) before = after * g.derivative(x, at);
    if (g.by_slope) add(to, of_slope, 0, 0, after * g.by_slope(x, at));
    if (g.by_entry) add(to, of_table, g.entry(at), 0, after * g.by_entry(x, at));
  }
  for (index c = 0; c < q.size(); ++c) {
    add(to, of_query, at.row, c, before * (scale * static_cast<Number>(k(c))));
    add(to, of_key, at.key, c, before * (scale * static_cast<Number>(q(c))));
  }
}

// out = Σ_j kept_ij P_ij v_j
template <class Number, class Scalar>
void drop(const gradient_problem<Scalar>& g, answer<Number>& forward) {
  for (index i = 0; i < forward.out.rows(); ++i) {
    // A row that is empty stays so, whatever it would multiply by 0.
    if ((forward.weights.row(i).array() == 0).all() && (forward.out.row(i).array() == 0).all()) {
      continue;
    }
    forward.out.row(i).setZero();
    for (index j = 0; j < forward.weights.cols(); ++j) {
      if (!g.sees(g.at(i, j))) continue;
      const Number weight = forward.weights(i, j) * static_cast<Number>(g.kept(g.at(i, j)));
      for (index c = 0; c < forward.out.cols(); ++c) {
        forward.out(i, c) += weight * static_cast<Number>(g.forward.v(j, c));
      }
    }
  }
}

// evaluate_gradients<wide<Scalar>> is the reference, evaluate_gradients<Scalar> the plain formula
// in the type under test, as with `evaluate`.
template <class Number, class Scalar>
gradient_sums<Number> evaluate_gradients(const gradient_problem<Scalar>& g) {
  const problem<Scalar>& p = g.forward;
  const index queries = p.q.rows(), keys = p.k.rows(), d = p.q.cols();
  answer<Number> forward = evaluate<Number>(p);
  if (g.kept) drop(g, forward);
  const long double by_default = d == 0 ? 1 : 1 / std::sqrt(static_cast<long double>(d));
  const auto scale = static_cast<Number>(p.scale ? *p.scale : by_default);

  gradient_sums<Number> to(queries, keys, d, p.v.cols(), g.entries);
  to.largest_exponent = forward.largest_score;
  for (index i = 0; i < queries; ++i) {
    bool empty = true;
    for (index j = 0; j < keys; ++j) empty = empty && !g.sees(g.at(i, j));
    const Number lse = forward.log_sum_exp(i);
    if (lse == -std::numeric_limits<Number>::infinity()) continue;  // nor where all scores are -inf
    if (std::isfinite(lse)) to.largest_exponent = std::max(to.largest_exponent, std::abs(lse));
    const auto out_gradient = g.out_gradient.row(i);
    weighed<Number> delta;
    if (!empty) delta = inner_product<Number>(out_gradient, forward.out.row(i));
    if (g.log_sum_exp_gradient.size() > 0) {
      delta = delta - weighed<Number>(static_cast<Number>(g.log_sum_exp_gradient(i)));
    }
    if (p.sink > -std::numeric_limits<double>::infinity()) {
      const auto sink = static_cast<Number>(static_cast<Scalar>(p.sink));
      add(to, of_sink, 0, 0, delta * -std::exp(sink - lse));
    }
    for (index j = 0; j < keys; ++j) {
      const place at = g.at(i, j);
      if (!g.sees(at)) continue;
      const Number kept = g.kept ? static_cast<Number>(g.kept(at)) : Number(1);
      const Number weight = forward.weights(i, j);
      for (index c = 0; c < p.v.cols(); ++c) {
        const auto term = static_cast<Number>(out_gradient(c)) * (kept * weight);
        add(to, of_value, j, c, weighed<Number>(term));
      }
      const auto of_weight = inner_product<Number>(out_gradient, p.v.row(j)) * kept;
      add_pair(g, at, scale, (of_weight - delta) * weight, to);
    }
  }
  return to;
}

// What a correct implementation gives, and how far from it a good one may be.
template <class Scalar>
class gradient_expectation {
 public:
  explicit gradient_expectation(const gradient_problem<Scalar>& g)
      : exact_(evaluate_gradients<wide<Scalar>>(g)) {
    const gradient_sums<Scalar> plain = evaluate_gradients<Scalar>(g);
    for (const part n : every_part) {
      wide<Scalar> largest = 0;
      for (const auto x : exact_.magnitude[n].reshaped()) {
        if (std::isfinite(x) && x > largest) largest = x;
      }
      allowed_[n] = tolerance::gradient<Scalar>(largest_error(exact_.sum[n], plain.sum[n]), largest,
                                                exact_.largest_exponent);
    }
  }

  const matrix<wide<Scalar>>& of(part n) const { return exact_.sum[n]; }
  wide<Scalar> allowed(part n) const { return allowed_[n]; }

  // The first of these that disagrees, in words.
  std::string against(const gradient_matrices<Scalar>& found, const std::vector<part>& parts,
                      bool nan_or_infinity_is_open = false) const {
    for (const part n : parts) {
      const std::string text = against(n, found[n], nan_or_infinity_is_open);
      if (!text.empty()) return text;
    }
    return {};
  }
  template <class Found>
  std::string against(part n, const Found& found, bool nan_or_infinity_is_open = false) const {
    const auto& exact = exact_.sum[n];
    return disagreement(name_of(n), exact,
                        matrix<wide<Scalar>>(matrix<wide<Scalar>>::Constant(
                            exact.rows(), exact.cols(), allowed_[n])),
                        found, nan_or_infinity_is_open);
  }

 private:
  gradient_sums<wide<Scalar>> exact_;
  std::array<wide<Scalar>, every_part.size()> allowed_{};
};

}  // namespace attn_test
