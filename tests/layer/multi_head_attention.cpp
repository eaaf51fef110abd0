// Laws of multi-head attention: what it equals, what it must not depend on, what it refuses.
#include <attn/multi_head_attention.hpp>

#include "layer/layers.hpp"
#include "support/catch.hpp"

namespace attn_test {
namespace {

template <class Scalar>
using layer_of = attn::multi_head_attention<Scalar>;

attn::multi_head_attention_options any_layer(generator& g) {
  const index heads = g.between(1, 4), d = g.between(1, 6);
  attn::multi_head_attention_options shape{
      .bias = g.chance(0.5), .heads = heads, .seed = g.next(), .width = heads * d};
  if (g.chance(0.4)) shape.head_width = g.between(1, 6);
  if (g.chance(0.4)) shape.value_head_width = g.between(1, 6);
  if (g.chance(0.4)) shape.key_width = g.between(1, 9);
  if (g.chance(0.4)) shape.value_width = g.between(1, 9);
  return shape;
}

template <class Scalar>
problem<Scalar> any_inputs(generator& g, const layer_of<Scalar>& layer, index queries, index keys) {
  return {.q = any_matrix<matrix<Scalar>>(g, queries, layer.width()),
          .k = any_matrix<matrix<Scalar>>(g, keys, layer.key_width()),
          .v = any_matrix<matrix<Scalar>>(g, keys, layer.value_width())};
}

// The same call with numbers of another type.
template <class Number, class Scalar>
problem<Number> in(const problem<Scalar>& call) {
  problem<Number> other{.q = call.q.template cast<Number>(),
                        .k = call.k.template cast<Number>(),
                        .v = call.v.template cast<Number>(),
                        .scale = call.scale,
                        .offset = call.offset,
                        .visible = call.visible,
                        .bias = call.bias};
  other.sink = call.sink;
  return other;
}

template <class Scalar>
struct expected_layer {
  layer_answer<wide<Scalar>> exact;
  double out_error = 0;
  double weights_error = 0;
};

// A change with no type of its own is written for both.
template <class Scalar, class Change>
expected_layer<Scalar> expect_layer(const layer_of<Scalar>& layer, const problem<Scalar>& call,
                                    const Change& change) {
  auto wide_call = in<wide<Scalar>>(call);
  auto plain_call = in<Scalar>(call);
  wide_call.change = change;
  plain_call.change = change;
  expected_layer<Scalar> e{plain_layer<wide<Scalar>>(layer, wide_call)};
  const auto plain = plain_layer<Scalar>(layer, plain_call);
  const index longest = std::max({call.q.cols(), call.k.cols(), call.v.cols(), call.k.rows(),
                                  layer.heads() * layer.value_head_width()});
  e.out_error = allowed_error<Scalar>(e.exact.out, plain.out, longest);
  for (std::size_t h = 0; h < plain.weights.size(); ++h) {
    e.weights_error = std::max(
        e.weights_error, allowed_error<Scalar>(e.exact.weights[h], plain.weights[h], longest));
  }
  return e;
}

const auto unchanged = [](auto s, place) { return s; };

TEMPLATE_TEST_CASE("a layer is its heads, each written in plain loops", "[layer]", float, double) {
  generator g(1);
  for (int round = 0; round < 12; ++round) {
    const layer_of<TestType> made(any_layer(g));
    layer_of<TestType> layer = made;
    fill(layer, g);
    const index queries = g.between(1, 9), keys = g.between(1, 9);
    auto call = any_inputs(g, layer, queries, keys);
    call.offset = g.between(-3, 3);
    if (g.chance(0.5)) call.scale = g.uniform(-1, 1);
    if (g.chance(0.3)) call.sink = g.uniform(-1, 1);
    attn::options options{.alignment = attn::offset(call.offset), .scale = call.scale};
    options.sink = call.sink;
    for (const mask_case& mask : every_mask(g, queries, keys)) {
      call.visible = mask.visible;
      const auto expected = expect_layer(layer, call, unchanged);
      const auto [out, weights] =
          layer.with_weights(call.q, call.k, call.v, mask.mask, attn::identity(), options);
      INFO(mask.name << ", " << queries << " queries, " << keys << " keys, " << layer.heads()
                     << " heads of " << layer.head_width() << " and " << layer.value_head_width());
      CHECK(distance(expected.exact.out, out) <= expected.out_error);
      REQUIRE(std::ssize(weights) == layer.heads());
      for (std::size_t h = 0; h < weights.size(); ++h) {
        CHECK(distance(expected.exact.weights[h], weights[h]) <= expected.weights_error);
      }
      CHECK(same(out, layer(call.q, call.k, call.v, mask.mask, options)));
    }
  }
}

TEMPLATE_TEST_CASE("a score change knows its head", "[layer]", float, double) {
  generator g(2);
  layer_of<TestType> layer({.heads = 3, .width = 6});
  fill(layer, g);
  auto call = any_inputs(g, layer, 5, 5);
  call.visible = [](place at) { return at.key <= at.query; };
  const std::vector<double> slopes{0.5, 0.125, 2};
  const auto expected = expect_layer(layer, call, [&](auto s, place at) {
    const double slope = slopes[static_cast<std::size_t>(at.head)];
    return s - static_cast<decltype(s)>(slope * static_cast<double>(std::abs(at.query - at.key)));
  });
  const auto out = layer(call.q, call.k, call.v, attn::causal(), attn::alibi(slopes));
  CHECK(distance(expected.exact.out, out) <= expected.out_error);
  CHECK(message_of([&] {
          layer(call.q, call.k, call.v, attn::causal(), attn::alibi({0.5, 0.25}));
        }) == "alibi has 2 slopes, the call has 3 heads (a single slope would serve all)");
}

TEMPLATE_TEST_CASE("an additive mask is added in every head", "[layer]", float, double) {
  generator g(3);
  layer_of<TestType> layer({.heads = 2, .width = 6});
  fill(layer, g);
  auto call = any_inputs(g, layer, 4, 7);
  matrix<TestType> bias = any_matrix<matrix<TestType>>(g, 4, 7);
  bias(1, 2) = -std::numeric_limits<TestType>::infinity();
  call.bias = [&](place at) { return static_cast<double>(bias(at.row, at.key)); };
  const auto expected = expect_layer(layer, call, unchanged);
  CHECK(distance(expected.exact.out, layer(call.q, call.k, call.v, bias)) <= expected.out_error);
}

TEMPLATE_TEST_CASE("one head with projections that do nothing is plain attention", "[layer]", float,
                   double) {
  generator g(4);
  const index width = 5;
  for (const bool bias : {false, true}) {
    layer_of<TestType> layer({.bias = bias, .width = width});
    for (auto& [name, values] : layer.parameters()) {
      if (values.rows() == width) values.setIdentity();
    }
    const auto call = any_inputs(g, layer, 6, 9);
    CHECK(same(layer(call.q, call.k, call.v),
               attn::scaled_dot_product_attention(call.q, call.k, call.v)));
    CHECK(same(layer(call.q), attn::scaled_dot_product_attention(call.q, call.q, call.q)));
    CHECK(same(layer(call.q, call.k, call.v, {.scale = -0.3}),
               attn::scaled_dot_product_attention(call.q, call.k, call.v, {.scale = -0.3})));
    const attn::options kept{.alignment = attn::bottom_right};
    CHECK(same(layer(call.q, call.k, call.v, attn::causal(), kept),
               attn::scaled_dot_product_attention(call.q, call.k, call.v, attn::causal(), kept)));
  }
}

TEMPLATE_TEST_CASE("keys and values may stand in any order", "[layer]", float, double) {
  generator g(5);
  layer_of<TestType> layer({.heads = 2, .key_width = 3, .value_width = 7, .width = 8});
  fill(layer, g);
  const auto call = any_inputs(g, layer, 4, 6);
  Eigen::PermutationMatrix<Eigen::Dynamic> turn(6);
  turn.indices() << 3, 0, 5, 1, 4, 2;
  const auto expected = expect_layer(layer, call, unchanged);
  const matrix<TestType> k = turn * call.k, v = turn * call.v;
  CHECK(distance(expected.exact.out, layer(call.q, k, v)) <= expected.out_error);
  CHECK(distance(expected.exact.out, layer(call.q, k, call.v)) > 100 * expected.out_error);
}

TEMPLATE_TEST_CASE("nothing of the padding reaches a token", "[layer]", float, double) {
  generator g(6);
  for (const index tokens : {1, 3, 17, 40}) {
    layer_of<TestType> layer({.heads = 2, .width = 6});
    fill(layer, g);
    const auto clean = any_matrix<matrix<TestType>>(g, tokens + 3, 6);
    const auto expected = layer(clean, clean, clean, attn::key_padding(tokens));
    for (const TestType poison :
         {std::numeric_limits<TestType>::quiet_NaN(), std::numeric_limits<TestType>::infinity()}) {
      matrix<TestType> x = clean;
      x.bottomRows(3).setConstant(poison);
      const auto out = layer(x, x, x, attn::key_padding(tokens));
      CHECK(same(out.topRows(tokens), expected.topRows(tokens)));
      CHECK(out.bottomRows(3).array().isNaN().all());
    }
    // Seen, it shows.
    matrix<TestType> x = clean;
    x(tokens, 0) = std::numeric_limits<TestType>::quiet_NaN();
    CHECK(layer(x).array().isNaN().all());
  }
}

TEMPLATE_TEST_CASE("a query that sees nothing gets the output's bias", "[layer]", float, double) {
  generator g(7);
  layer_of<TestType> layer({.heads = 2, .width = 4});
  fill(layer, g);
  const matrix<TestType> bias = layer.parameter("output.bias");
  const auto call = any_inputs(g, layer, 3, 5);
  const auto [out, weights] =
      layer.with_weights(call.q, call.k, call.v, [](attn::index i, attn::index) { return i != 1; },
                         attn::identity(), {.alignment = attn::top_left});
  CHECK(same(out.row(1), bias));
  CHECK((weights[0].row(1).array() == 0).all());
  CHECK(weights[1].row(2).sum() == Approx(1));

  const matrix<TestType> none(0, 4);
  const auto from_nothing = layer(call.q, none, none);
  REQUIRE(from_nothing.rows() == 3);
  for (index i = 0; i < 3; ++i) CHECK(same(from_nothing.row(i), bias));
  CHECK(layer(none).rows() == 0);
  CHECK(layer(none).cols() == 4);
}

TEST_CASE("inputs of every kind, results in the query's order", "[layer]") {
  generator g(8);
  layer_of<double> layer({.heads = 2, .width = 4});
  fill(layer, g);
  const Eigen::MatrixXd x = any_matrix<Eigen::MatrixXd>(g, 6, 4);
  const Eigen::MatrixXd expected = layer(x);
  const auto close = [&](const auto& out) {
    return distance(matrix<double>(expected), out) <= tolerance::reordered_sum<double>(6, 4.0);
  };
  const matrix<double> row_major = x;
  const Eigen::MatrixXd turned = x.transpose();
  const Eigen::Array<double, 6, 4> array = x.array();
  Eigen::MatrixXd wide(6, 9);
  wide.middleCols(2, 4) = x;
  CHECK(close(layer(row_major)));
  CHECK(close(layer(turned.transpose())));
  CHECK(close(layer(array)));
  CHECK(close(layer(2 * x - x)));
  CHECK(close(layer(wide.middleCols(2, 4))));
  CHECK(close(layer(x, row_major, turned.transpose())));
  CHECK(close(layer(Eigen::Ref<const Eigen::MatrixXd>(x))));
  static_assert(decltype(layer(row_major))::IsRowMajor);
  static_assert(!decltype(layer(x))::IsRowMajor);
  static_assert(decltype(layer(array))::RowsAtCompileTime == 6);
}

TEST_CASE("16-bit numbers are computed with in float", "[layer]") {
  generator g(9);
  layer_of<Eigen::half> narrow({.heads = 2, .width = 32});
  layer_of<float> layer({.heads = 2, .width = 32});
  fill(narrow, g);
  attn::tensors<float> values;
  for (const auto& [name, from] : narrow.parameters()) values[name] = from.cast<float>();
  layer.load(values);
  const auto x = any_matrix<matrix<Eigen::half>>(g, 30, 32);
  const matrix<float> expected = layer(x.cast<float>());
  const auto [out, weights] = narrow.with_weights(x, x, x);
  static_assert(std::is_same_v<decltype(out), const matrix<Eigen::half>>);
  static_assert(std::is_same_v<decltype(weights), const std::vector<Eigen::MatrixXf>>);
  // The result is rounded once.
  CHECK(same(out, expected.cast<Eigen::half>()));
}

TEST_CASE("the executor changes nothing", "[layer]") {
  generator g(10);
  layer_of<float> layer({.heads = 2, .width = 8});
  const auto x = any_matrix<matrix<float>>(g, 150, 8);
  CHECK(same(layer(x), layer(x, x, x, {.executor = attn::std_threads(3)})));
}

TEST_CASE("a call that does not fit its layer is refused", "[layer]") {
  const layer_of<float> layer({.heads = 2, .key_width = 3, .value_width = 5, .width = 4});
  const Eigen::MatrixXf q(2, 4), k(6, 3), v(6, 5);
  Eigen::MatrixXf weights;
  Eigen::VectorXf lse;
  const auto refused = [](const auto& f) { return message_of(f); };
  CHECK(refused([&] { layer(k, k, v); }) == "query has 3 columns, the layer has width 4");
  CHECK(refused([&] { layer(q, q, v); }) == "key has 4 columns, the layer has key_width 3");
  CHECK(refused([&] { layer(q, k, k); }) == "value has 3 columns, the layer has value_width 5");
  CHECK(refused([&] { layer(q); }) == "key has 4 columns, the layer has key_width 3");
  CHECK(refused([&] { layer(q, k, v.topRows(4)); }) == "value has 4 rows, key has 6");
  CHECK(refused([&] { layer(q, k, v, {.weights = weights}); }) ==
        "options.weights takes the weights of one head, the layer has 2: call with_weights, which "
        "returns those of each");
  CHECK(refused([&] { layer(q, k, v, {.log_sum_exp = lse}); }) ==
        "options.log_sum_exp takes the numbers of one head, the layer has 2: it should not be "
        "given");
  CHECK(refused([&] { layer(q, k, v, Eigen::Matrix<bool, 2, 4>()); }) ==
        "mask has 4 columns, key has 6 rows");
  CHECK(refused([&] { layer(q, k, v, attn::causal()); }).find("options.alignment must be given") !=
        std::string::npos);
}

TEST_CASE("a layer without a shape is refused", "[layer]") {
  using layer = layer_of<double>;
  CHECK(message_of([] { layer({}); }) == "width is 0, it should be at least 1");
  CHECK(message_of([] { layer({.heads = 0, .width = 4}); }) ==
        "heads is 0, it should be at least 1");
  CHECK(message_of([] { layer({.heads = 3, .width = 8}); }) ==
        "heads is 3, it should divide width, which is 8, or head_width should be given");
  CHECK(message_of([] { layer({.head_width = 0, .width = 8}); }) ==
        "head_width is 0, it should be at least 1");
  CHECK(message_of([] { layer({.value_head_width = -1, .width = 8}); }) ==
        "value_head_width is -1, it should be at least 1");
  CHECK(message_of([] { layer({.key_width = 0, .width = 8}); }) ==
        "key_width is 0, it should be at least 1");
  CHECK(message_of([] { layer({.value_width = 0, .width = 8}); }) ==
        "value_width is 0, it should be at least 1");
  CHECK(layer({.head_width = 5, .heads = 3, .width = 8}).head_width() == 5);
}

}  // namespace
}  // namespace attn_test
