// The one call, head by head.
#include "measure.hpp"

namespace bench {
namespace {

template <class Matrix>
void forward_of(benchmark::State& state, benchmark_case& c) {
  using scalar = typename Matrix::Scalar;
  const workload& w = c.work;
  const inputs<scalar>& in = inputs_of<scalar>(w);
  attn::options options{.alignment = attn::bottom_right};
  if (w.threads > 1) options.executor = attn::std_threads(w.threads);
  std::vector<Matrix> out(static_cast<std::size_t>(w.all_heads()));

  with_feature(w, in, [&](const auto& mask, const auto& score_mod) {
    const auto call = [&] {
      for (index head = 0; head < w.all_heads(); ++head) {
        const index key_head = w.key_head(head);
        attn::scaled_dot_product_attention_into(
            out[static_cast<std::size_t>(head)], in.query.template view<Matrix>(head),
            in.key.template view<Matrix>(key_head), in.value.template view<Matrix>(key_head), mask,
            score_mod, options);
      }
    };
    const auto computed = [&](index head, index row, index col) {
      return double{out[static_cast<std::size_t>(head)](row, col)};
    };
    const double flops_a_pair = 4 * static_cast<double>(w.width);  // Q Kᵀ and P V
    measure(state, c, in, {&reference_row::weighted_sum, flops_a_pair}, call, computed);
  });
}

}  // namespace

template <class Scalar>
void forward(benchmark::State& state, benchmark_case& c) {
  if (c.work.feature == feature::column_major) {
    forward_of<Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>>(state, c);
  } else {
    forward_of<row_major<Scalar>>(state, c);
  }
}

template void forward<float>(benchmark::State&, benchmark_case&);
template void forward<double>(benchmark::State&, benchmark_case&);

}  // namespace bench
