// The call that a case stands for, and its backward pass beside plain loops.
#pragma once

#include "fuzz/attention_case.hpp"

namespace attn_fuzz {

template <class T>
using call = attention_case<T>;

template <class T>
auto matrix_of(const tensor<T>& t) {
  return t.view().head(0, 0);
}

// The call as the case has it; `options` name its outputs.
template <class T, class M, class F>
void forward(const call<T>& c, const M& mask, const F& change, const attn::options& options) {
  if (c.how == form::packed) {
    attn::packed_attention_into(c.out.view(), c.q.view(), c.k.view(), c.v.view(),
                                {c.query_starts, c.key_starts}, mask, change, options);
  } else if (c.how == form::one_head) {
    attn::scaled_dot_product_attention_into(matrix_of(c.out), matrix_of(c.q), matrix_of(c.k),
                                            matrix_of(c.v), mask, change, options);
  } else {
    attn::scaled_dot_product_attention_into(c.out.view(), c.q.view(), c.k.view(), c.v.view(), mask,
                                            change, options);
  }
}

template <class T>
attn::options with_outputs(const call<T>& c) {
  attn::options options = c.options;
  const bool one = c.how == form::one_head;
  if (c.wants_sums) {
    options.log_sum_exp =
        one ? attn::output(matrix_of(c.log_sum_exp)) : attn::output(c.log_sum_exp.view());
  }
  if (c.wants_weights) {
    options.weights = one ? attn::output(matrix_of(c.weights)) : attn::output(c.weights.view());
  }
  return options;
}

// Whether gradients are within reach of plain loops: no number that is large or none at all meets
// another.
template <class T>
bool is_tame(const gradient_problem<T>& g, const bounds<T>& forward) {
  const problem<T>& p = g.forward;
  constexpr T most = T(1e4);
  const auto tame = [&](const auto& row) {
    for (index c = 0; c < row.size(); ++c) {
      if (!(std::abs(row(c)) <= most)) return false;
    }
    return true;
  };
  for (index i = 0; i < p.q.rows(); ++i) {
    for (index j = 0; j < p.k.rows(); ++j) {
      if (!g.sees(g.at(i, j))) continue;
      if (!tame(p.q.row(i)) || !tame(p.k.row(j)) || !tame(p.v.row(j))) return false;
      if (p.bias && !(std::abs(p.bias(g.at(i, j))) <= 1e4)) return false;
    }
    if (forward.row(i).open || !(forward.row(i).log_sum_exp < 1)) return false;
  }
  return std::abs(p.scale.value_or(1)) <= 100;
}

// Sums over all heads of what a gradient should be and of what it may be off by.
template <class T>
struct expected_gradient {
  attn::heads_array<wide<T>> exact, allowed;

  explicit expected_gradient(const heads_shape& n) : exact(n), allowed(n) {
    std::fill_n(exact.data(), n.size(), 0);
    std::fill_n(allowed.data(), n.size(), 0);
  }
  void add(const gradient_bounds<T>& one, part n, index b, index h, index first) {
    const heads_shape& s = exact.shape();
    if (s.size() == 0) return;
    for (index i = 0; i < one.exact(n).rows(); ++i) {
      for (index c = 0; c < one.exact(n).cols(); ++c) {
        const index to[] = {std::min(b, s.batch - 1), std::min(h, s.heads - 1),
                            s.length == 1 ? 0 : first + i};
        exact(to[0], to[1], to[2], c) += one.exact(n)(i, c);
        allowed(to[0], to[1], to[2], c) += one.allowed(n)(i, c);
      }
    }
  }
  void compare(const char* name, const tensor<T>& found, const call<T>& of) const {
    require(found.gaps_hold(call<T>::untouched), "a gradient's gaps were written to");
    for (index e = 0; e < exact.shape().size(); ++e) {
      const heads_shape& s = exact.shape();
      const index at[] = {e / (s.width * s.length * s.heads), e / (s.width * s.length) % s.heads,
                          e / s.width % s.length, e % s.width};
      const wide<T> x = exact(at[0], at[1], at[2], at[3]),
                    slack = allowed(at[0], at[1], at[2], at[3]);
      const auto y = static_cast<wide<T>>(found.at(e));
      if (std::abs(x - y) <= slack) continue;
      char text[160];
      std::snprintf(text, sizeof text,
                    "gradient of %s(%td, %td, %td, %td) is %.9g, expected %.9g +- %.3g", name,
                    at[0], at[1], at[2], at[3], static_cast<double>(y), static_cast<double>(x),
                    static_cast<double>(slack));
      fail(text + (": " + of.text()));
    }
  }
};

template <class T>
struct found_gradients {
  tensor<T> query, key, value, bias;
  Eigen::Matrix<T, Eigen::Dynamic, 1> sink;
};

template <class T>
tensor<T> like(bytes& in, const heads_shape& n) {
  return tensor<T>(in, n, call<T>::untouched);
}

// Forward for what the way back needs, and back.
template <class T, class M, class F>
found_gradients<T> backward(call<T>& c, const M& mask, const F& change, const heads_shape& bias) {
  const bool one = c.how == form::one_head;
  if (!c.wants_sums) c.log_sum_exp = c.result(1);
  c.wants_sums = true;
  c.wants_weights = false;
  forward(c, mask, change, with_outputs(c));
  c.out_gradient = c.result(c.value_width);
  c.out_gradient.fill([&] { return static_cast<T>(c.g.uniform()); });
  c.log_sum_exp_gradient = c.result(1);
  c.log_sum_exp_gradient.fill([&] { return static_cast<T>(c.g.uniform()); });

  found_gradients<T> found{like<T>(c.in, c.n),
                           like<T>(c.in, c.k.view().shape()),
                           like<T>(c.in, c.v.view().shape()),
                           like<T>(c.in, bias),
                           {}};
  const auto to = [&](const tensor<T>& t) {
    return one ? attn::output(matrix_of(t)) : attn::output(t.view());
  };
  const auto from = [&](const tensor<T>& t) {
    return one ? attn::input(matrix_of(t)) : attn::input(t.view());
  };
  attn::gradients gradients{
      .key = to(found.key), .query = to(found.query), .sink = found.sink, .value = to(found.value)};
  if constexpr (attn::AdditiveMask<M>) gradients.bias = attn::output(found.bias.view());
  attn::forward_pass results{
      .log_sum_exp = from(c.log_sum_exp), .out = from(c.out), .out_gradient = from(c.out_gradient)};
  if (c.in.flag()) results.log_sum_exp_gradient = from(c.log_sum_exp_gradient);
  if (!results.log_sum_exp_gradient) c.log_sum_exp_gradient = {};
  if (c.how == form::packed) {
    attn::packed_attention_backward(gradients, results, c.q.view(), c.k.view(), c.v.view(),
                                    {c.query_starts, c.key_starts}, mask, change, c.options);
  } else if (one) {
    attn::scaled_dot_product_attention_backward(gradients, results, matrix_of(c.q), matrix_of(c.k),
                                                matrix_of(c.v), mask, change, c.options);
  } else {
    attn::scaled_dot_product_attention_backward(gradients, results, c.q.view(), c.k.view(),
                                                c.v.view(), mask, change, c.options);
  }
  return found;
}

template <class T, class M, class F>
void check_backward(call<T>& c, const M& mask, const F& change, const heads_shape& bias_shape) {
  const found_gradients<T> found = backward(c, mask, change, bias_shape);
  expected_gradient<T> query(c.n), key(c.k.view().shape()), value(c.v.view().shape()),
      bias(bias_shape), sink({1, std::max<index>(1, c.options.sink.size()), 1, 1});
  for (index b = 0; b < c.sequences(); ++b) {
    for (index h = 0; h < c.n.heads; ++h) {
      gradient_problem<T> g = c.problem_of(b, h);
      const range i = c.queries(b), j = c.keys_of(b);
      const index from = c.how == form::packed ? 0 : b;
      g.out_gradient = c.rows(c.out_gradient, from, h, i);
      if (c.log_sum_exp_gradient.view().shape().size() > 0) {
        g.log_sum_exp_gradient = c.rows(c.log_sum_exp_gradient, from, h, i).col(0);
      }
      const bounds<T> of_forward(g);
      if (!is_tame(g, of_forward)) return;
      const gradient_bounds<T> one(g, of_forward);
      query.add(one, of_query, from, h, i.first);
      key.add(one, of_key, from, c.key_head(h), j.first);
      value.add(one, of_value, from, c.key_head(h), j.first);
      bias.add(one, of_bias, b, h, 0);
      sink.add(one, of_sink, 0, h, 0);
    }
  }
  query.compare("query", found.query, c);
  key.compare("key", found.key, c);
  value.compare("value", found.value, c);
  if (attn::AdditiveMask<M>) bias.compare("bias", found.bias, c);
  require(found.sink.size() == sink.exact.shape().heads, "gradients of sinks");
  for (index h = 0; h < found.sink.size(); ++h) {
    const auto x = static_cast<wide<T>>(found.sink(h));
    require(std::abs(x - sink.exact(0, h, 0, 0)) <= sink.allowed(0, h, 0, 0), "gradient of a sink");
  }
}

}  // namespace attn_fuzz
