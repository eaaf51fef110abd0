// Naive Eigen, head by head.
#include "naive.hpp"

#include "measure.hpp"

namespace bench {

template <class Scalar>
void naive(benchmark::State& state, benchmark_case& c) {
  const workload& w = c.work;
  const inputs<Scalar>& in = inputs_of<Scalar>(w);
  tensor<Scalar> out({w.batch, w.heads, w.queries, w.width}, w.feature);
  const auto call = [&] {
    for (index head = 0; head < w.all_heads(); ++head) {
      const index key_head = w.key_head(head);
      naive_attention(in.query.head(head), in.key.head(key_head), in.value.head(key_head),
                      out.head(head), w.queries, w.keys, w.width,
                      {.causal = w.feature == feature::causal});
    }
  };
  const auto computed = [&](index head, index row, index col) {
    return double{out(head, row, col)};
  };
  const double flops_a_pair = 4 * static_cast<double>(w.width);
  measure(state, c, in, {&reference_row::weighted_sum, flops_a_pair}, call, computed);
}

template void naive<float>(benchmark::State&, benchmark_case&);
template void naive<double>(benchmark::State&, benchmark_case&);

}  // namespace bench
