// The backward pass: gradients of query, key and value from the query in place of the gradient of
// the result.
#include "measure.hpp"

namespace bench {

template <class Scalar>
void backward(benchmark::State& state, benchmark_case& c) {
  const workload& w = c.work;
  const inputs<Scalar>& in = inputs_of<Scalar>(w);
  attn::options options{.alignment = attn::bottom_right};
  if (w.feature == feature::dropout) options.dropout = dropped;
  if (w.threads > 1) options.executor = attn::std_threads(w.threads);
  const attn::heads_shape of_query{w.batch, w.heads, w.queries, w.width};
  const attn::heads_shape of_key{w.batch, w.key_heads, w.keys, w.width};
  attn::heads_array<Scalar> log_sum_exp({w.batch, w.heads, w.queries, 1}), out(of_query);
  attn::heads_array<Scalar> query(of_query), key(of_key), value(of_key), bias;
  const auto computed = [&](index head, index row, index col) {
    return double{query(head / w.heads, head % w.heads, row, col)};
  };
  const double flops_a_pair = 10 * static_cast<double>(w.width);  // five products
  const computes what{&reference_row::query_gradient, flops_a_pair};

  with_feature(w, in, [&](const auto& mask, const auto& score_mod) {
    attn::options forward = options;
    forward.log_sum_exp = log_sum_exp;
    attn::scaled_dot_product_attention_into(out, in.query.heads(), in.key.heads(), in.value.heads(),
                                            mask, score_mod, forward);
    attn::gradients to{.key = key, .query = query, .value = value};
    if (w.feature == feature::bias_gradient) {
      bias.resize({1, w.heads, w.queries, w.keys});
      to.bias = bias;
    }
    const auto call = [&] {
      attn::scaled_dot_product_attention_backward(
          to, {.log_sum_exp = log_sum_exp, .out = out, .out_gradient = in.query.heads()},
          in.query.heads(), in.key.heads(), in.value.heads(), mask, score_mod, options);
    };
    measure(state, c, in, what, call, computed);
  });
}

template void backward<float>(benchmark::State&, benchmark_case&);
template void backward<double>(benchmark::State&, benchmark_case&);

}  // namespace bench
