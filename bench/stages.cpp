// Each stage by itself, head by head: scores or weights come in as a matrix and leave as a new one.
#include "measure.hpp"

namespace bench {
namespace {

template <class Scalar>
using matrices = std::vector<row_major<Scalar>>;

/// f(head) for every head.
template <class Scalar, class F>
void each_head(const workload& w, matrices<Scalar>& out, const F& f) {
  out.resize(static_cast<std::size_t>(w.all_heads()));
  for (index head = 0; head < w.all_heads(); ++head) out[static_cast<std::size_t>(head)] = f(head);
}

/// Benchmarks f(head), a stage.
template <class Scalar, class F>
void measure_stage(benchmark::State& state, benchmark_case& c, const computes& what, const F& f) {
  matrices<Scalar> out(static_cast<std::size_t>(c.work.all_heads()));
  const auto computed = [&](index head, index row, index col) {
    return double{out[static_cast<std::size_t>(head)](row, col)};
  };
  measure(state, c, inputs_of<Scalar>(c.work), what, [&] { each_head(c.work, out, f); }, computed);
}

}  // namespace

template <class Scalar>
void stage(benchmark::State& state, benchmark_case& c) {
  const workload& w = c.work;
  const inputs<Scalar>& in = inputs_of<Scalar>(w);
  const double factor = 1 / std::sqrt(static_cast<double>(w.width));
  const double flops_a_pair = 2 * static_cast<double>(w.width);
  const auto query = [&](index h) { return in.query.template view<row_major<Scalar>>(h); };
  const auto key = [&](index h) { return in.key.template view<row_major<Scalar>>(w.key_head(h)); };
  const auto value = [&](index h) {
    return in.value.template view<row_major<Scalar>>(w.key_head(h));
  };

  const auto score = [&](index h) { return attn::score(query(h), key(h)); };
  if (w.what == "score") {
    return measure_stage<Scalar>(state, c, {&reference_row::score, flops_a_pair}, score);
  }

  // What the stage under test takes: the result of the stages before it.
  matrices<Scalar> before;
  const auto input = [&](index h) -> const auto& { return before[static_cast<std::size_t>(h)]; };
  each_head(w, before, score);
  const auto scale = [&](index h) { return attn::scale(input(h), factor); };
  if (w.what == "scale") {
    return measure_stage<Scalar>(state, c, {&reference_row::scale}, scale);
  }
  each_head(w, before, scale);
  with_feature(w, in, [&](const auto& mask, const auto& score_mod) {
    const auto change = [&](index h) {
      return attn::apply_score_mod(input(h), score_mod, attn::bottom_right);
    };
    const auto hide = [&](index h) { return attn::apply_mask(input(h), mask, attn::bottom_right); };
    if (w.what == "score_mod") {
      return measure_stage<Scalar>(state, c, {&reference_row::mask}, change);
    }
    each_head(w, before, change);
    if (w.what == "mask") {
      return measure_stage<Scalar>(state, c, {&reference_row::mask}, hide);
    }
    each_head(w, before, hide);
    const auto softmax = [&](index h) { return attn::softmax(input(h)); };
    if (w.what == "softmax") {
      return measure_stage<Scalar>(state, c, {&reference_row::softmax}, softmax);
    }
    each_head(w, before, softmax);
    measure_stage<Scalar>(state, c, {&reference_row::weighted_sum, flops_a_pair},
                          [&](index h) { return attn::weighted_sum(input(h), value(h)); });
  });
}

template void stage<float>(benchmark::State&, benchmark_case&);
template void stage<double>(benchmark::State&, benchmark_case&);

}  // namespace bench
