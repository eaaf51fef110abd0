// Gradients of one head against plain loops, over generated shapes, masks and score changes.
#include "gradient/support.hpp"

namespace attn_test {
namespace {

template <class Scalar, class M, class F>
void check_gradients(const gradient_problem<Scalar>& g, const M& mask, const F& score_mod,
                     const std::vector<part>& parts = inputs_and_sink()) {
  CAPTURE(g.forward.q.rows(), g.forward.k.rows(), g.forward.q.cols(), g.forward.v.cols(),
          g.forward.sink, g.forward.scale.value_or(-99), g.forward.offset);
  const auto found = run_gradients(g, mask, score_mod, parts);
  CHECK(gradient_expectation<Scalar>(g).against(found, parts) == "");
}

index any_offset(generator& g, shape n) {
  return g.one_of(std::vector<index>{0, n.keys - n.queries, g.between(-9, 9)});
}

template <class Scalar>
void check_every_mask(generator& g, shape n) {
  for (const mask_case& c : every_mask(g, n.queries, n.keys)) {
    auto p = any_gradient_problem<Scalar>(g, n);
    p.forward.offset = any_offset(g, n);
    p.forward.visible = c.visible;
    INFO(c.name);
    check_gradients(p, c.mask, attn::identity());
  }
}

TEST_CASE("every mask") {
  generator g(901);
  for (int repeat = 0; repeat < 4; ++repeat) {
    check_every_mask<float>(g, any_shape(g, repeat < 3 ? 40 : 150));
    check_every_mask<double>(g, any_shape(g));
  }
}

template <class Scalar>
void check_every_change(generator& g, shape n) {
  const index offset = any_offset(g, n);
  for (const auto& c : every_smooth_change<Scalar>(g, n, offset)) {
    auto p = any_gradient_problem<Scalar>(g, n);
    p.forward.offset = offset;
    p.forward.change = c.truth;
    p.derivative = c.derivative;
    INFO(c.name);
    check_gradients(p, any_mask(attn::none()), c.library);
    const mask_case mask = g.one_of(every_mask(g, n.queries, n.keys));
    p.forward.visible = mask.visible;
    INFO(mask.name);
    check_gradients(p, mask.mask, c.library);
  }
}

TEST_CASE("every score change that has a derivative") {
  generator g(902);
  for (int repeat = 0; repeat < 4; ++repeat) {
    check_every_change<float>(g, any_shape(g, repeat < 3 ? 40 : 150));
    check_every_change<double>(g, any_shape(g));
  }
}

const std::vector<index> edges{15, 16, 17, 47, 48, 49, 127, 128, 129, 1023, 1024, 1025, 1030};
const std::vector<index> widths{1, 3, 7, 16, 17, 64, 80};

template <class Scalar>
void check_shape(generator& g, shape n) {
  auto p = any_gradient_problem<Scalar>(g, n, 1 / std::sqrt(std::sqrt(static_cast<double>(n.d))));
  p.forward.offset = n.keys - n.queries;
  check_gradients(p, any_mask(attn::none()), attn::identity());
  const mask_case causal{"", attn::causal(), [](place at) { return at.key <= at.query; }};
  const mask_case drawn =
      n.queries * n.keys == 0 ? causal : g.one_of(every_mask(g, n.queries, n.keys));
  const mask_case& c = g.chance(0.5) ? causal : drawn;
  INFO(c.name);
  p.forward.visible = c.visible;
  check_gradients(p, c.mask, attn::identity());
}

TEST_CASE("lengths around the edges of blocks, tiles and parts") {
  generator g(903);
  for (const index length : edges) {
    for (const index other : {index{1}, g.between(2, 12), g.between(13, 20)}) {
      const index d = g.one_of(widths), dv = g.one_of(widths);
      if (g.chance(0.5)) {
        check_shape<float>(g, {length, other, d, dv});
        check_shape<double>(g, {other, length, dv, d});
      } else {
        check_shape<double>(g, {length, other, d, dv});
        check_shape<float>(g, {other, length, dv, d});
      }
    }
  }
}

TEST_CASE("widths") {
  generator g(904);
  for (const index width : widths) {
    check_shape<float>(g, {g.between(1, 60), g.between(1, 60), width, g.one_of(widths)});
    check_shape<double>(g, {g.between(1, 60), g.between(1, 60), g.one_of(widths), width});
  }
}

TEST_CASE("several parts of queries and of keys") {
  generator g(905);
  check_shape<float>(g, {1100, 1050, 5, 3});
  check_shape<float>(g, {1050, 2100, 3, 8});
  check_shape<double>(g, {1025, 1026, 4, 2});
}

TEST_CASE("no queries, no keys, no width") {
  generator g(906);
  for (const shape n :
       {shape{0, 5, 3, 2}, {5, 0, 3, 2}, {0, 0, 3, 2}, {4, 6, 0, 2}, {4, 6, 3, 0}}) {
    check_shape<float>(g, n);
    check_shape<double>(g, n);
  }
}

template <class Scalar>
void check_bias(generator& g, shape n) {
  auto p = any_gradient_problem<Scalar>(g, n);
  const std::vector<part> parts{of_query, of_key, of_value, of_sink, of_bias};
  matrix<Scalar> bias = any_matrix<matrix<Scalar>>(g, n.queries, n.keys);
  for (auto& x : bias.reshaped()) {
    if (g.chance(0.2)) x = -std::numeric_limits<Scalar>::infinity();
  }
  set_bias(p, bias);
  check_gradients(p, attn::as_mask(bias), attn::identity(), parts);

  const mask_case c = g.one_of(every_mask(g, n.queries, n.keys));
  p.forward.visible = c.visible;
  p.forward.offset = any_offset(g, n);
  INFO(c.name);
  check_gradients(p, c.mask & attn::as_mask(bias), attn::identity(), parts);
  const auto changed = g.one_of(every_smooth_change<Scalar>(g, n, p.forward.offset));
  p.forward.change = changed.truth;
  p.derivative = changed.derivative;
  INFO(changed.name);
  check_gradients(p, c.mask & attn::as_mask(bias), changed.library, parts);
}

TEST_CASE("a bias of a number for each pair") {
  generator g(907);
  for (int repeat = 0; repeat < 12; ++repeat) {
    check_bias<float>(g, any_shape(g, 60));
    check_bias<double>(g, any_shape(g));
  }
}

template <class Scalar>
void check_bias_row(generator& g, shape n) {
  auto p = any_gradient_problem<Scalar>(g, n);
  matrix<Scalar> bias = any_matrix<matrix<Scalar>>(g, 1, n.keys);
  bias(0, g.between(0, n.keys - 1)) = -std::numeric_limits<Scalar>::infinity();
  set_bias(p, bias);
  const auto found = run_gradients(p, attn::as_mask(bias), attn::identity(),
                                   {of_query, of_key, of_value, of_bias});
  const gradient_expectation<Scalar> expected(p);
  CHECK(expected.against(found, {of_query, of_key, of_value}) == "");
  const matrix<wide<Scalar>> sums = expected.of(of_bias).colwise().sum();
  const auto terms = static_cast<wide<Scalar>>(n.queries);
  CHECK(disagreement("bias", sums,
                     matrix<wide<Scalar>>(matrix<wide<Scalar>>::Constant(
                         1, n.keys, expected.allowed(of_bias) * terms)),
                     found[of_bias], false) == "");
}

TEST_CASE("a bias of one row for all queries gets the sum of theirs") {
  generator g(908);
  for (int repeat = 0; repeat < 10; ++repeat) {
    check_bias_row<float>(g, any_shape(g, 70));
    check_bias_row<double>(g, any_shape(g));
  }
  check_bias_row<float>(g, {600, 9, 3, 2});
  check_bias_row<float>(g, {3, 530, 3, 2});
}

// What is learned of score changes, before and after others.
template <class Scalar>
void check_parameters(generator& g, shape n) {
  auto p = any_gradient_problem<Scalar>(g, n);
  p.forward.offset = any_offset(g, n);
  const mask_case c = g.one_of(every_mask(g, n.queries, n.keys));
  p.forward.visible = c.visible;
  CAPTURE(c.name, p.forward.offset);
  const index reach = n.queries + n.keys + std::abs(p.forward.offset);
  const double slope = g.uniform(0.01, 0.1), cap = g.uniform(1, 3);
  const Eigen::VectorXd table = any_matrix<Eigen::VectorXd>(g, 2 * reach + 1, 1);
  p.entries = table.size();
  p.entry = [=](place at) { return reach + at.key - at.query; };

  const auto distance = [](auto s, place at) {
    return static_cast<decltype(s)>(std::abs(at.query - at.key));
  };
  const auto tilted = [=](auto s, place at) {
    return s - static_cast<decltype(s)>(slope) * distance(s, at);
  };
  const auto looked_up = [=](auto s, place at) {
    return s + static_cast<decltype(s)>(table(reach + at.key - at.query));
  };
  const auto capped = [=](auto s) {
    using Number = decltype(s);
    return static_cast<Number>(cap) * std::tanh(s / static_cast<Number>(cap));
  };
  const auto capped_slope = [=](auto s) {
    const auto t = std::tanh(s / static_cast<decltype(s)>(cap));
    return 1 - t * t;
  };
  // relative_bias, then softcap, then alibi
  p.forward.change = [=](auto s, place at) { return tilted(capped(looked_up(s, at)), at); };
  p.derivative = [=](auto s, place at) { return capped_slope(looked_up(s, at)); };
  p.by_entry = p.derivative;
  p.by_slope = [=](auto s, place at) { return -distance(s, at); };
  check_gradients(p, c.mask,
                  attn::compose(attn::relative_bias(Eigen::VectorXd(table)), attn::softcap(cap),
                                attn::alibi(slope)),
                  {of_query, of_key, of_value, of_slope, of_table});
  // alibi, then relative_bias, then softcap
  p.forward.change = [=](auto s, place at) { return capped(looked_up(tilted(s, at), at)); };
  p.derivative = [=](auto s, place at) { return capped_slope(looked_up(tilted(s, at), at)); };
  p.by_entry = p.derivative;
  p.by_slope = [=](auto s, place at) {
    return -distance(s, at) * capped_slope(looked_up(tilted(s, at), at));
  };
  check_gradients(p, c.mask,
                  attn::compose(attn::alibi(slope), attn::relative_bias(Eigen::VectorXd(table)),
                                attn::softcap(cap)),
                  {of_query, of_key, of_value, of_slope, of_table});
}

TEST_CASE("slopes and tables, wherever they stand in a composition") {
  generator g(909);
  for (int repeat = 0; repeat < 8; ++repeat) {
    check_parameters<float>(g, any_shape(g, 60));
    check_parameters<double>(g, any_shape(g));
  }
  check_parameters<float>(g, {20, 600, 3, 2});
  check_parameters<float>(g, {600, 20, 3, 2});
}

}  // namespace
}  // namespace attn_test
