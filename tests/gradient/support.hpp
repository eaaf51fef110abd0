// Seeded problems with gradients, score changes beside their derivatives, and the two calls,
// forward and back, that the tests of gradients make.
#pragma once

#include <attn/gradient.hpp>

#include "support/gradient_reference.hpp"
#include "unit/laws.hpp"

namespace attn_test {

// Numbers, what came back for the results, and now and then a sink, a scale, a gradient of the
// log-sum-exps.
template <class Scalar>
gradient_problem<Scalar> any_gradient_problem(generator& g, shape n, double size = 1) {
  gradient_problem<Scalar> made{.forward = any_problem<Scalar>(g, n, size),
                                .out_gradient = any_matrix<matrix<Scalar>>(g, n.queries, n.dv)};
  if (g.chance(0.5)) {
    made.log_sum_exp_gradient = any_matrix<vector<Scalar>>(g, n.queries, 1);
  }
  if (g.chance(0.3)) made.forward.sink = g.uniform(-1, 2);
  if (g.chance(0.3)) made.forward.scale = g.one_of(std::vector<double>{0, -0.4, 0.7});
  return made;
}

// A score change of the library's beside what it and its derivative should be.
template <class Scalar>
struct smooth_case {
  std::string name;
  any_smooth_change<Scalar> library;
  score_change<Scalar> truth, derivative;
};

template <class Scalar>
std::vector<smooth_case<Scalar>> library_changes(generator& g, shape n, index offset) {
  const double cap = g.uniform(0.5, 4), slope = g.uniform(0.01, 0.1);
  const index reach =
      std::max(std::abs(n.queries - 1 + offset) + n.keys, n.keys + std::abs(offset));
  const Eigen::VectorXd table = any_matrix<Eigen::VectorXd>(g, 2 * reach + 1, 1);
  const auto capped = [=](auto s) {
    using Number = decltype(s);
    return static_cast<Number>(cap) * std::tanh(s / static_cast<Number>(cap));
  };
  const auto capped_slope = [=](auto s) {
    const auto t = std::tanh(s / static_cast<decltype(s)>(cap));
    return 1 - t * t;
  };
  const auto tilted = [=](auto s, place at) {
    using Number = decltype(s);
    return s - static_cast<Number>(slope) * static_cast<Number>(std::abs(at.query - at.key));
  };
  const auto looked_up = [=](auto s, place at) {
    return s + static_cast<decltype(s)>(table(reach + at.key - at.query));
  };
  const auto one = [](auto s, place) { return decltype(s)(1); };
  const auto library_table = attn::relative_bias(Eigen::VectorXd(table));
  const auto twice = [](auto s) { return 2 * s; };

  using any = any_smooth_change<Scalar>;
  return {
      {"softcap", any(attn::softcap(cap)), [=](auto s, place) { return capped(s); },
       [=](auto s, place) { return capped_slope(s); }},
      {"alibi", any(attn::alibi(slope)), tilted, one},
      {"relative_bias", any(library_table), looked_up, one},
      {"softcap, then alibi", any(attn::compose(attn::softcap(cap), attn::alibi(slope))),
       [=](auto s, place at) { return tilted(capped(s), at); },
       [=](auto s, place) { return capped_slope(s); }},
      {"alibi, then softcap", any(attn::compose(attn::alibi(slope), attn::softcap(cap))),
       [=](auto s, place at) { return capped(tilted(s, at)); },
       [=](auto s, place at) { return capped_slope(tilted(s, at)); }},
      {"relative_bias, then a lambda, then softcap",
       any(attn::compose(library_table, twice, attn::softcap(cap))),
       [=](auto s, place at) { return capped(2 * looked_up(s, at)); },
       [=](auto s, place at) { return 2 * capped_slope(2 * looked_up(s, at)); }},
  };
}

template <class Scalar>
std::vector<smooth_case<Scalar>> lambda_changes() {
  using any = any_smooth_change<Scalar>;
  const auto sigmoid = [](auto s) { return 1 / (1 + std::exp(-s)); };
  return {
      {"identity", any(attn::identity()), [](auto s, place) { return s; },
       [](auto s, place) { return decltype(s)(1); }},
      {"lambda of a score", any([](auto s) { return s * s / 4; }),
       [](auto s, place) { return s * s / 4; }, [](auto s, place) { return s / 2; }},
      {"lambda of a score and its position", any([](auto s, attn::position at) {
         return at.key % 2 == 0 ? -s : s + static_cast<float>(at.row - at.query) / 64;
       }),
       [](auto s, place at) {
         return at.key % 2 == 0 ? -s : s + static_cast<decltype(s)>(at.row - at.query) / 64;
       },
       [](auto s, place at) { return decltype(s)(at.key % 2 == 0 ? -1 : 1); }},
      {"lambda with functions of attn::math", any([](auto s) {
         return s * attn::math::sigmoid(s) + attn::math::tanh(s);  // swish, and a bounded part
       }),
       [=](auto s, place) { return s * sigmoid(s) + std::tanh(s); },
       [=](auto s, place) {
         const auto t = std::tanh(s), y = sigmoid(s);
         return y + s * y * (1 - y) + 1 - t * t;
       }},
      {"with_derivative",
       any(attn::with_derivative([](Scalar s) { return std::sin(s); },
                                 [](Scalar s) { return std::cos(s); })),
       [](auto s, place) { return std::sin(s); }, [](auto s, place) { return std::cos(s); }},
  };
}

template <class Scalar>
std::vector<smooth_case<Scalar>> every_smooth_change(generator& g, shape n, index offset) {
  auto cases = library_changes<Scalar>(g, n, offset);
  for (auto& c : lambda_changes<Scalar>()) cases.push_back(std::move(c));
  return cases;
}

inline const std::vector<part>& inputs_and_sink() {
  static const std::vector<part> parts{of_query, of_key, of_value, of_sink};
  return parts;
}

// The problem's numbers among the options.
template <class Scalar>
attn::options options_of(const gradient_problem<Scalar>& g, attn::options options) {
  options.alignment = attn::offset(g.forward.offset);
  options.scale = g.forward.scale;
  options.sink = g.forward.sink;
  return options;
}

// Forward, then back. `parts` are asked for, all others stay empty.
template <class Scalar, class M, class F>
gradient_matrices<Scalar> run_gradients(const gradient_problem<Scalar>& g, const M& mask,
                                        const F& score_mod, const std::vector<part>& parts,
                                        const attn::options& given = {}) {
  const problem<Scalar>& p = g.forward;
  const attn::options options = options_of(g, given);
  attn::options with_sums = options;
  vector<Scalar> lse;
  with_sums.log_sum_exp = lse;
  const matrix<Scalar> out =
      attn::scaled_dot_product_attention(p.q, p.k, p.v, mask, score_mod, with_sums);
  gradient_matrices<Scalar> found;
  const auto to = [&](part n) {
    return std::count(parts.begin(), parts.end(), n) > 0 ? attn::output(found[n]) : attn::output();
  };
  attn::forward_pass from{.log_sum_exp = lse, .out = out, .out_gradient = g.out_gradient};
  if (g.log_sum_exp_gradient.size() > 0) from.log_sum_exp_gradient = g.log_sum_exp_gradient;
  attn::scaled_dot_product_attention_backward({.bias = to(of_bias),
                                               .key = to(of_key),
                                               .query = to(of_query),
                                               .relative_bias = to(of_table),
                                               .sink = to(of_sink),
                                               .slopes = to(of_slope),
                                               .value = to(of_value)},
                                              from, p.q, p.k, p.v, mask, score_mod, options);
  return found;
}

template <class Scalar>
bool same_bits(const gradient_matrices<Scalar>& a, const gradient_matrices<Scalar>& b,
               const std::vector<part>& parts) {
  return std::all_of(parts.begin(), parts.end(), [&](part n) { return same_bits(a[n], b[n]); });
}

// An additive matrix of the caller's beside the formula: the matrix adds to what the mask leaves.
template <class Scalar, class Bias>
void set_bias(gradient_problem<Scalar>& g, const Bias& bias) {
  g.forward.bias = [bias](place at) {
    return static_cast<double>(bias(bias.rows() == 1 ? 0 : at.row, at.key));
  };
}

}  // namespace attn_test
