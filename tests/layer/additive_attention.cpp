// Laws of additive attention, against its formula in plain loops.
#include <attn/additive_attention.hpp>

#include "layer/layers.hpp"
#include "support/catch.hpp"

namespace attn_test {
namespace {

template <class Number>
struct additive_answer {
  matrix<Number> scores, weights, out, log_sum_exp;
};

// s_ij = w · tanh(q_i W_q + k_j W_k), then the softmax of scale · s over what is visible.
template <class Number, class Scalar>
additive_answer<Number> plain_additive(const attn::additive_attention<Scalar>& layer,
                                       const problem<Scalar>& call) {
  const auto q = project<Number, Scalar>(call.q.template cast<Number>(), layer, "query");
  const auto k = project<Number, Scalar>(call.k.template cast<Number>(), layer, "key");
  const auto w = layer.parameter("score.weight");
  const Number minus_infinity = -std::numeric_limits<Number>::infinity();
  const index queries = q.rows(), keys = k.rows();
  additive_answer<Number> a{matrix<Number>::Zero(queries, keys),
                            matrix<Number>::Zero(queries, keys),
                            matrix<Number>::Zero(queries, call.v.cols()),
                            matrix<Number>::Constant(queries, 1, static_cast<Number>(call.sink))};
  for (index i = 0; i < queries; ++i) {
    Number m = static_cast<Number>(call.sink);
    for (index j = 0; j < keys; ++j) {
      for (index c = 0; c < q.cols(); ++c) {
        a.scores(i, j) += static_cast<Number>(w(c, 0)) * std::tanh(q(i, c) + k(j, c));
      }
      const place at{.row = i, .query = i + call.offset, .key = j};
      if (call.visible && !call.visible(at)) continue;
      a.weights(i, j) = static_cast<Number>(call.scale.value_or(1)) * a.scores(i, j);
      m = std::max(m, a.weights(i, j));
    }
    if (m == minus_infinity) continue;
    Number l = std::exp(static_cast<Number>(call.sink) - m);
    for (index j = 0; j < keys; ++j) {
      const place at{.row = i, .query = i + call.offset, .key = j};
      if (call.visible && !call.visible(at)) continue;
      a.weights(i, j) = std::exp(a.weights(i, j) - m);
      l += a.weights(i, j);
    }
    a.weights.row(i) /= l;
    a.log_sum_exp(i, 0) = m + std::log(l);
    for (index j = 0; j < keys; ++j) {
      for (index c = 0; c < call.v.cols(); ++c) {
        a.out(i, c) += a.weights(i, j) * static_cast<Number>(call.v(j, c));
      }
    }
  }
  return a;
}

template <class Scalar>
void check_against_plain_loops(const attn::additive_attention<Scalar>& layer,
                               const problem<Scalar>& call, const any_mask& mask) {
  const auto exact = plain_additive<wide<Scalar>>(layer, call);
  const auto plain = plain_additive<Scalar>(layer, call);
  const index longest =
      std::max({layer.hidden_width(), call.q.cols(), call.k.cols(), call.k.rows()});
  // Eigen's tanh is good to a few eps; weights and sums err by what the scores they come from do.
  const double of_scores =
      8 * tolerance::reordered_sum<Scalar>(
              longest, layer.parameter("score.weight").template cast<double>().cwiseAbs().sum());
  const auto allowed = [&](const auto& wide_result, const auto& plain_result) {
    return allowed_error<Scalar>(wide_result, plain_result, longest) + of_scores;
  };

  Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic> weights;
  Eigen::Matrix<Scalar, Eigen::Dynamic, 1> lse;
  attn::options options{.alignment = attn::offset(call.offset),
                        .log_sum_exp = lse,
                        .scale = call.scale,
                        .weights = weights};
  options.sink = call.sink;
  const auto out = layer(call.q, call.k, call.v, mask, options);
  CHECK(distance(exact.scores, layer.score(call.q, call.k)) <= allowed(exact.scores, plain.scores));
  CHECK(distance(exact.weights, weights) <= allowed(exact.weights, plain.weights));
  CHECK(distance(exact.out, out) <= allowed(exact.out, plain.out));
  for (index i = 0; i < lse.size(); ++i) {
    if (std::isinf(static_cast<double>(exact.log_sum_exp(i, 0)))) {
      CHECK(lse(i) == static_cast<Scalar>(exact.log_sum_exp(i, 0)));
    } else {
      CHECK(std::abs(static_cast<double>(exact.log_sum_exp(i, 0)) - static_cast<double>(lse(i))) <=
            of_scores + tolerance::log_sum_exp<Scalar>(0.0, static_cast<double>(lse(i))));
    }
  }
}

template <class Scalar>
problem<Scalar> any_inputs(generator& g, const attn::additive_attention<Scalar>& layer,
                           index queries, index keys) {
  return {.q = any_matrix<matrix<Scalar>>(g, queries, layer.width(), 3),
          .k = any_matrix<matrix<Scalar>>(g, keys, layer.key_width(), 3),
          .v = any_matrix<matrix<Scalar>>(g, keys, 3)};
}

TEMPLATE_TEST_CASE("additive attention is its formula", "[layer]", float, double) {
  generator g(1);
  for (int round = 0; round < 12; ++round) {
    attn::additive_attention_options shape{.seed = g.next(), .width = g.between(1, 9)};
    if (g.chance(0.7)) shape.hidden_width = g.between(1, 20);
    if (g.chance(0.7)) shape.key_width = g.between(1, 9);
    const attn::additive_attention<TestType> layer(shape);
    const index queries = g.between(1, 9), keys = g.between(1, 9);
    auto call = any_inputs(g, layer, queries, keys);
    call.offset = g.between(-3, 3);
    if (g.chance(0.5)) call.scale = g.uniform(-2, 2);
    if (g.chance(0.3)) call.sink = g.uniform(-1, 1);
    for (const mask_case& mask : every_mask(g, queries, keys)) {
      INFO(mask.name << ", " << queries << " queries, " << keys << " keys, hidden width "
                     << layer.hidden_width());
      call.visible = mask.visible;
      check_against_plain_loops(layer, call, mask.mask);
    }
  }
}

TEMPLATE_TEST_CASE("a score that one can work out by hand", "[layer]", float, double) {
  attn::additive_attention<TestType> layer({.hidden_width = 2, .width = 1});
  layer.parameter("query.weight") << 1, 0;
  layer.parameter("key.weight") << 1, 2;
  layer.parameter("score.weight") << 3, -1;
  const matrix<TestType> q = matrix<TestType>::Constant(1, 1, TestType(0.25));
  // 3 tanh(0.25 + 0.5) - tanh(2 · 0.5)
  const auto s = layer.score(q, 2 * q);
  CHECK(s(0, 0) == Approx(3 * 0.6351489524 - 0.7615941560).epsilon(1e-6));
}

TEMPLATE_TEST_CASE("hidden is inert and seen is not, also here", "[layer]", float, double) {
  generator g(2);
  for (const index hidden : {1, 4, 7, 16, 19}) {
    const attn::additive_attention<TestType> layer({.hidden_width = hidden, .width = 3});
    const auto clean = any_inputs(g, layer, 4, 6);
    const auto expected = layer(clean.q, clean.k, clean.v, attn::key_padding(4));
    for (const TestType poison :
         {std::numeric_limits<TestType>::quiet_NaN(), std::numeric_limits<TestType>::infinity()}) {
      auto call = clean;
      call.k.bottomRows(2).setConstant(poison);
      call.v.bottomRows(2).setConstant(poison);
      CHECK(same(layer(call.q, call.k, call.v, attn::key_padding(4)), expected));
    }
    auto call = clean;
    call.k(5, 0) = std::numeric_limits<TestType>::quiet_NaN();
    CHECK(layer(call.q, call.k, call.v).array().isNaN().all());
    call = clean;
    call.q(2, 1) = std::numeric_limits<TestType>::quiet_NaN();
    const auto out = layer(call.q, call.k, call.v, attn::key_padding(4));
    CHECK(out.row(2).array().isNaN().all());
    CHECK(same(out.topRows(2), expected.topRows(2)));
  }
}

TEMPLATE_TEST_CASE("empty rows and empty inputs give 0", "[layer]", float, double) {
  generator g(3);
  const attn::additive_attention<TestType> layer({.width = 3});
  const auto call = any_inputs(g, layer, 4, 5);
  Eigen::Matrix<TestType, Eigen::Dynamic, 1> lse;
  const auto out = layer(call.q, call.k, call.v, [](attn::index i, attn::index) { return i > 1; },
                         {.alignment = attn::top_left, .log_sum_exp = lse});
  CHECK(out.topRows(2).isZero(0));
  CHECK(lse(1) == -std::numeric_limits<TestType>::infinity());
  CHECK(std::isfinite(lse(2)));

  const matrix<TestType> nothing(0, 3);
  CHECK(layer(call.q, nothing, nothing).isZero(0));
  CHECK(layer(call.q, nothing, nothing).rows() == 4);
  CHECK(layer(nothing, call.k, call.v).rows() == 0);
}

TEST_CASE("16-bit inputs are computed with in float, on any threads", "[layer]") {
  generator g(4);
  const attn::additive_attention<Eigen::bfloat16> narrow({.hidden_width = 9, .width = 4});
  attn::additive_attention<float> layer({.hidden_width = 9, .width = 4});
  attn::tensors<float> values;
  for (const auto& [name, from] : narrow.parameters()) values[name] = from.cast<float>();
  layer.load(values);
  const auto x = any_matrix<matrix<Eigen::bfloat16>>(g, 20, 4);
  const matrix<float> wide_x = x.cast<float>();
  const matrix<float> expected = layer(wide_x, wide_x, wide_x);
  CHECK(same(narrow(x, x, x), expected.cast<Eigen::bfloat16>()));
  CHECK(same(layer(wide_x, wide_x, wide_x, {.executor = attn::std_threads(3)}), expected));
  static_assert(std::is_same_v<decltype(narrow(x, x, x)), matrix<Eigen::bfloat16>>);
}

TEST_CASE("dropout leaves out what it does elsewhere, and grows the rest", "[layer]") {
  generator g(632);
  const attn::additive_attention<float> layer({.width = 4});
  const auto call = any_inputs(g, layer, 9, 40);
  const matrix<float> all = matrix<float>::Identity(40, 40);  // the result is the weights
  const attn::dropout half{.probability = 0.5, .seed = 3};
  matrix<float> weights;
  const matrix<float> kept = layer(call.q, call.k, all, {.dropout = half, .weights = weights});
  const matrix<float> of_dot_products = attn::scaled_dot_product_attention(
      matrix<float>(matrix<float>::Zero(9, 4)), matrix<float>(matrix<float>::Zero(40, 4)), all,
      {.dropout = half});
  for (index i = 0; i < kept.size(); ++i) {
    const bool out = of_dot_products(i / 40, i % 40) == 0;
    CHECK(kept(i / 40, i % 40) == (out ? 0 : 2 * weights(i / 40, i % 40)));
  }
}

TEST_CASE("additive attention refuses what does not fit", "[layer]") {
  const attn::additive_attention<float> layer({.key_width = 3, .width = 4});
  const Eigen::MatrixXf q(2, 4), k(6, 3);
  Eigen::MatrixXf small(1, 1);
  Eigen::MatrixXd of_doubles;
  CHECK(message_of([&] { layer(k, k, k); }) == "query has 3 columns, the layer has width 4");
  CHECK(message_of([&] { layer(q, q, q); }) == "key has 4 columns, the layer has key_width 3");
  CHECK(message_of([&] { layer(q, k, q); }) == "value has 2 rows, key has 6");
  CHECK(message_of([&] { layer(q, k, k, Eigen::Matrix<bool, 2, 4>()); }) ==
        "mask has 4 columns, key has 6 rows");
  CHECK(message_of([&] {
          layer(q, k, k, attn::causal());
        }).find("options.alignment must be given") != std::string::npos);
  CHECK(message_of([&] {
          layer(q, k, k, {.weights = of_doubles});
        }).find("options.weights has elements of type double, they should be float") == 0);
  CHECK(message_of([&] { layer(q, k, k, {.weights = small.block(0, 0, 1, 1)}); }) ==
        "options.weights has 1 rows and 1 columns, it should have 2 and 6");
  CHECK(message_of([&] { layer(q, k, k, {.scale = INFINITY}); }).find("scale is inf") == 0);
  CHECK(message_of([&] {
          layer(q, k, k, {.dropout = {.probability = 7}});
        }).find("options.dropout has probability 7") == 0);
  const std::vector<int> lengths{3};
  CHECK(message_of([&] { layer(q, k, k, {.key_lengths = lengths}); }).find("options.key_lengths") ==
        0);
  CHECK(message_of([&] { layer(q, k, k, {.sink = std::vector<float>()}); }).find("sink has 0") ==
        0);
  Eigen::MatrixXf mask = Eigen::MatrixXf::Zero(2, 6);
  CHECK(message_of([&] { layer(q, k, k, mask, {.weights = mask}); }).find("overlaps mask") !=
        std::string::npos);
  CHECK(message_of([] { attn::additive_attention<float>({}); }) ==
        "width is 0, it should be at least 1");
  CHECK(message_of([] { attn::additive_attention<float>({.hidden_width = 0, .width = 2}); }) ==
        "hidden_width is 0, it should be at least 1");
  CHECK(message_of([] { attn::additive_attention<float>({.key_width = -1, .width = 2}); }) ==
        "key_width is -1, it should be at least 1");
}

}  // namespace
}  // namespace attn_test
