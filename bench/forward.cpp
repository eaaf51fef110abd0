// The call: of one head on matrices, of several on views.
#include "measure.hpp"

namespace bench {

template <class Scalar>
void forward(benchmark::State& state, benchmark_case& c) {
  const workload& w = c.work;
  const inputs<Scalar>& in = inputs_of<Scalar>(w);
  attn::options options{.alignment = attn::bottom_right};
  if (w.feature == feature::dropout) options.dropout = dropped;
  if (w.threads > 1) options.executor = attn::std_threads(w.threads);
  tensor<Scalar> out({w.batch, w.heads, w.queries, w.width}, w.feature);
  const auto computed = [&](index head, index row, index col) {
    return double{out(head, row, col)};
  };
  const double flops_a_pair = 4 * static_cast<double>(w.width);  // Q Kᵀ and P V
  const computes what{&reference_row::weighted_sum, flops_a_pair};

  with_feature(w, in, [&](const auto& mask, const auto& score_mod) {
    if (w.all_heads() > 1) {
      const auto call = [&] {
        attn::scaled_dot_product_attention_into(out.heads(), in.query.heads(), in.key.heads(),
                                                in.value.heads(), mask, score_mod, options);
      };
      measure(state, c, in, what, call, computed);
    } else {
      using matrix = row_major<Scalar>;
      const auto call = [&] {
        attn::scaled_dot_product_attention_into(
            Eigen::Map<matrix>(out.head(0), w.queries, w.width), in.query.template view<matrix>(0),
            in.key.template view<matrix>(0), in.value.template view<matrix>(0), mask, score_mod,
            options);
      };
      measure(state, c, in, what, call, computed);
    }
  });
}

template void forward<float>(benchmark::State&, benchmark_case&);
template void forward<double>(benchmark::State&, benchmark_case&);

}  // namespace bench
