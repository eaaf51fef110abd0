// The layer's backward pass: gradients of every parameter and input against central differences,
// laws of the tape, what is refused.
#include <attn/multi_head_attention.hpp>
#include <functional>

#include "layer/layers.hpp"
#include "support/catch.hpp"

namespace attn_test {
namespace {

using layer_of_doubles = attn::multi_head_attention<double>;
using numbers = matrix<double>;

// One way to use a layer: everything that can be learned or put in, and what comes back for it.
struct use {
  std::function<numbers(const layer_of_doubles&, const std::vector<numbers>&)> call;
  std::function<std::vector<numbers>(const layer_of_doubles&, const std::vector<numbers>&,
                                     const numbers&)>
      backward;  // gradients of parameters, then of inputs
};

template <class Gradients>
std::vector<numbers> listed(const Gradients& g) {
  std::vector<numbers> all;
  for (const auto& [name, values] : g.parameters) all.push_back(values);
  if constexpr (requires { g.x; }) {
    all.push_back(g.x);
  } else {
    all.insert(all.end(), {g.query, g.key, g.value});
  }
  return all;
}

// Of a gradient from central differences of `loss()` by each of `values`.
template <class Values, class Loss>
double farthest(Values values, const numbers& gradient, const Loss& loss) {
  const double h = tolerance::central_difference_step(tolerance::eps<double>());
  double worst = 0;
  for (index i = 0; i < values.rows(); ++i) {
    for (index j = 0; j < values.cols(); ++j) {
      const double was = values(i, j);
      values(i, j) = was + h;
      const double above = loss();
      values(i, j) = was - h;
      const double below = loss();
      values(i, j) = was;
      const double error = std::abs((above - below) / (2 * h) - gradient(i, j));
      if (!(error <= worst)) worst = error;  // NaN stays
    }
  }
  return worst;
}

// The loss weighs every number of the result at random.
void check_differences(layer_of_doubles layer, std::vector<numbers> inputs, const use& tried) {
  generator g(1);
  fill(layer, g, 1);
  const numbers out = tried.call(layer, inputs);
  const auto weights = any_matrix<numbers>(g, out.rows(), out.cols());
  const std::vector<numbers> gradients = tried.backward(layer, inputs, weights);
  const auto loss = [&] { return tried.call(layer, inputs).cwiseProduct(weights).sum(); };
  const auto check = [&](const std::string& name, auto values, const numbers& gradient) {
    INFO(name);
    REQUIRE(gradient.rows() == values.rows());
    REQUIRE(gradient.cols() == values.cols());
    CHECK(farthest(values, gradient, loss) <
          tolerance::central_difference(tolerance::eps<double>()));
    // Softmax does not see a number that is added to all scores of a query.
    if (name != "key.bias") CHECK(gradient.cwiseAbs().maxCoeff() > 0.01);
  };
  auto parameters = layer.parameters();
  REQUIRE(gradients.size() == parameters.size() + inputs.size());
  for (std::size_t n = 0; n < parameters.size(); ++n) {
    check(parameters[n].name, parameters[n].values, gradients[n]);
  }
  for (std::size_t n = 0; n < inputs.size(); ++n) {
    check("input " + std::to_string(n), Eigen::Ref<numbers>(inputs[n]),
          gradients[parameters.size() + n]);
  }
}

// Mask, score change and options as they are.
template <class... Rules>
use self_attention(const Rules&... rules) {
  return {[=](const auto& layer, const auto& in) { return layer(in[0], in[0], in[0], rules...); },
          [=](const auto& layer, const auto& in, const numbers& out_gradient) {
            const auto [out, tape] = layer.forward(in[0], rules...);
            return listed(layer.backward(tape, out_gradient, rules...));
          }};
}
template <class... Rules>
use cross_attention(const Rules&... rules) {
  return {[=](const auto& layer, const auto& in) { return layer(in[0], in[1], in[2], rules...); },
          [=](const auto& layer, const auto& in, const numbers& out_gradient) {
            const auto [out, tape] = layer.forward(in[0], in[1], in[2], rules...);
            return listed(layer.backward(tape, out_gradient, rules...));
          }};
}
template <class... Rules>
use packed_attention(const std::vector<int>& starts, const Rules&... rules) {
  return {[=](const auto& layer, const auto& in) { return layer.packed(in[0], starts, rules...); },
          [=](const auto& layer, const auto& in, const numbers& out_gradient) {
            const auto [out, tape] = layer.forward_packed(
                in[0], std::vector<attn::index>(starts.begin(), starts.end()), rules...);
            return listed(layer.backward(tape, out_gradient, rules...));
          }};
}

numbers any_numbers(index rows, index cols, std::uint64_t seed = 7) {
  generator g(seed);
  return any_matrix<numbers>(g, rows, cols);
}

const attn::multi_head_attention_options shape{.heads = 2, .width = 4};
const attn::multi_head_attention_options other_widths{.bias = false,
                                                      .head_width = 3,
                                                      .heads = 2,
                                                      .key_width = 5,
                                                      .value_head_width = 2,
                                                      .value_width = 3,
                                                      .width = 4};

TEST_CASE("gradients of self-attention", "[layer]") {
  const numbers x = any_numbers(5, 4);
  check_differences(layer_of_doubles(shape), {x}, self_attention());
  check_differences(layer_of_doubles(shape), {x}, self_attention(attn::causal()));
  check_differences(layer_of_doubles(shape), {x},
                    self_attention(attn::causal(), attn::softcap(0.7)));
  check_differences(layer_of_doubles(shape), {x},
                    self_attention(attn::options{.scale = -0.8, .sink = 0.3}));
}

TEST_CASE("gradients of attention to something else", "[layer]") {
  const numbers query = any_numbers(3, 4, 1), key = any_numbers(6, 5, 2),
                value = any_numbers(6, 3, 3);
  const layer_of_doubles layer(other_widths);
  check_differences(layer, {query, key, value}, cross_attention());
  check_differences(layer, {query, key, value},
                    cross_attention(attn::causal(), attn::alibi({0.5, 0.25}),
                                    attn::options{.alignment = attn::bottom_right}));
}

TEST_CASE("gradients with dropout", "[layer]") {
  const attn::options training{.dropout = {.probability = 0.4, .seed = 5}};
  check_differences(layer_of_doubles(shape), {any_numbers(6, 4)},
                    self_attention(attn::sliding_window(2), training));
  const std::vector<int> starts{0, 4, 4, 9};
  check_differences(layer_of_doubles(shape), {any_numbers(9, 4)},
                    packed_attention(starts, attn::causal(), training));
}

TEST_CASE("gradients of packed sequences", "[layer]") {
  const std::vector<int> starts{0, 3, 4, 9};
  check_differences(layer_of_doubles(shape), {any_numbers(9, 4)}, packed_attention(starts));
  check_differences(layer_of_doubles(shape), {any_numbers(9, 4)},
                    packed_attention(starts, attn::causal(), attn::softcap(0.7)));
}

TEST_CASE("what masks and score changes learn", "[layer]") {
  layer_of_doubles layer(shape);
  generator g(3);
  fill(layer, g, 1);
  const numbers x = any_numbers(5, 4), weights = any_numbers(5, 4, 9);
  numbers bias = any_numbers(5, 5, 4), table = any_numbers(2, 9, 5), sinks = any_numbers(1, 2, 6);
  const Eigen::Map<const Eigen::VectorXd> sink(sinks.data(), 2);
  const attn::options options{.sink = sink};
  const auto loss = [&] {
    return layer(x, x, x, bias, attn::relative_bias(table), options).cwiseProduct(weights).sum();
  };
  numbers of_bias, of_table, of_sinks;
  const auto [out, tape] = layer.forward(x, bias, attn::relative_bias(table), options);
  layer.backward(tape, weights, bias, attn::relative_bias(table), options,
                 {.bias = of_bias, .relative_bias = of_table, .sink = of_sinks});
  const double allowed = tolerance::central_difference(tolerance::eps<double>());
  CHECK(farthest(Eigen::Ref<numbers>(bias), of_bias, loss) < allowed);
  CHECK(farthest(Eigen::Ref<numbers>(table), of_table, loss) < allowed);
  CHECK(farthest(Eigen::Ref<numbers>(sinks), of_sinks.transpose(), loss) < allowed);
  CHECK(of_sinks.cwiseAbs().minCoeff() > 0.001);
}

TEMPLATE_TEST_CASE("forward is the call", "[layer]", float, double) {
  generator g(4);
  attn::multi_head_attention<TestType> layer(other_widths);
  fill(layer, g);
  const auto q = any_matrix<matrix<TestType>>(g, 5, 4), k = any_matrix<matrix<TestType>>(g, 7, 5),
             v = any_matrix<matrix<TestType>>(g, 7, 3);
  const attn::options training{.dropout = {.probability = 0.2, .seed = 2}};
  CHECK(same(layer.forward(q, k, v).out, layer(q, k, v)));
  CHECK(same(layer.forward(q, k, v, training).out, layer(q, k, v, training)));
  CHECK(
      same(layer.forward(q, k, v, attn::key_padding(3)).out, layer(q, k, v, attn::key_padding(3))));
  CHECK(same(layer.forward(q, k, v, attn::none(), attn::softcap(1), training).out,
             layer(q, k, v, attn::none(), attn::softcap(1), training)));

  attn::multi_head_attention<TestType> own(shape);
  const std::vector<int> starts{0, 2, 5};
  CHECK(same(own.forward(q).out, own(q)));
  CHECK(same(own.forward(q, attn::causal(), training).out, own(q, q, q, attn::causal(), training)));
  CHECK(same(own.forward_packed(q, starts).out, own.packed(q, starts)));

  const Eigen::Matrix<TestType, Eigen::Dynamic, Eigen::Dynamic> columns = q;
  const auto out = own.forward(columns).out;
  static_assert(!decltype(out)::IsRowMajor);
  CHECK(same(out, own(q)));
}

TEST_CASE("a tape owns what it needs", "[layer]") {
  layer_of_doubles layer(shape);
  numbers x = any_numbers(6, 4);
  const numbers out_gradient = any_numbers(6, 4, 8);
  std::vector<int> starts{0, 2, 6};
  const auto run = [&](auto tape) { return layer.backward(tape, out_gradient, attn::causal()); };

  const auto expected = run(layer.forward_packed(x, starts, attn::causal()).tape);
  const auto [out, tape] =
      layer.forward_packed((2 * x - x).eval(), std::vector<int>(starts), attn::causal());
  starts = {0, 6, 6};
  const auto moved_from = tape;
  const auto found = run(moved_from);
  CHECK(same(found.x, expected.x));
  const auto parameters = layer.parameters();
  REQUIRE(found.parameters.size() == parameters.size());
  for (std::size_t n = 0; n < parameters.size(); ++n) {
    CHECK(found.parameters[n].name == parameters[n].name);
    CHECK(found.parameters[n].values.rows() == parameters[n].values.rows());
    CHECK(found.parameters[n].values.cols() == parameters[n].values.cols());
    CHECK(same(found.parameters[n].values, expected.parameters[n].values));
  }
}

TEST_CASE("packed gradients are the sum of those of each sequence", "[layer]") {
  layer_of_doubles layer(shape);
  generator g(5);
  fill(layer, g);
  const numbers x = any_numbers(30, 4), out_gradient = any_numbers(30, 4, 2);
  const std::vector<int> starts{0, 11, 12, 30};
  const auto all = layer.backward(layer.forward_packed(x, starts, attn::causal()).tape,
                                  out_gradient, attn::causal());
  auto sum = all.parameters;
  for (auto& parameter : sum) parameter.values.setZero();
  const double allowed = tolerance::reordered_sum<double>(30, 30);
  for (std::size_t n = 0; n + 1 < starts.size(); ++n) {
    const index first = starts[n], length = starts[n + 1] - first;
    const auto one = layer.backward(layer.forward(x.middleRows(first, length), attn::causal()).tape,
                                    out_gradient.middleRows(first, length), attn::causal());
    CHECK(distance(numbers(all.x.middleRows(first, length)), one.x) < allowed);
    for (std::size_t p = 0; p < sum.size(); ++p) sum[p].values += one.parameters[p].values;
  }
  for (std::size_t p = 0; p < sum.size(); ++p) {
    CHECK(distance(numbers(sum[p].values), all.parameters[p].values) < allowed);
  }
}

TEST_CASE("gradients in float are those in double", "[layer]") {
  layer_of_doubles layer({.heads = 4, .width = 32});
  attn::multi_head_attention<float> narrow({.heads = 4, .width = 32});
  const numbers x = any_numbers(70, 32), out_gradient = any_numbers(70, 32, 2);
  const attn::options training{.dropout = {.probability = 0.1, .seed = 1}};
  const auto exact = layer.backward(layer.forward(x, attn::causal(), training).tape, out_gradient,
                                    attn::causal(), training);
  const auto tape = narrow.forward(x.cast<float>(), attn::causal(), training).tape;
  const auto found = narrow.backward(tape, out_gradient.cast<float>(), attn::causal(), training);
  const auto close = [](const auto& expected, const auto& got) {
    const double size = expected.cwiseAbs().maxCoeff();
    return (expected - got.template cast<double>()).cwiseAbs().maxCoeff() <
           tolerance::reordered_sum<float>(70, std::max(size, 1.0));
  };
  CHECK(close(exact.x, found.x));
  for (std::size_t n = 0; n < exact.parameters.size(); ++n) {
    INFO(exact.parameters[n].name);
    CHECK(close(exact.parameters[n].values, found.parameters[n].values));
  }
}

TEST_CASE("nothing of a hidden token reaches a gradient", "[layer]") {
  layer_of_doubles layer(shape);
  const numbers clean = any_numbers(7, 4), out_gradient = any_numbers(7, 4, 2);
  const auto run = [&](const numbers& keys) {
    const auto [out, tape] = layer.forward(clean, keys, keys, attn::key_padding(5));
    return layer.backward(tape, out_gradient, attn::key_padding(5));
  };
  const auto expected = run(clean);
  // Where something may be hidden, the products are summed pair by pair.
  const double allowed = tolerance::reordered_sum<double>(7, 10);
  for (const double poison :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    numbers keys = clean;
    keys.bottomRows(2).setConstant(poison);
    const auto found = run(keys);
    CHECK(distance(expected.query, found.query) < allowed);
    CHECK(distance(expected.key, found.key) < allowed);
    CHECK(distance(expected.value, found.value) < allowed);
    CHECK((found.key.bottomRows(2).array() == 0).all());
    CHECK((found.value.bottomRows(2).array() == 0).all());
    for (std::size_t n = 0; n < found.parameters.size(); ++n) {
      CHECK(distance(numbers(expected.parameters[n].values), found.parameters[n].values) < allowed);
    }
    // Seen, it shows.
    keys(0, 0) = poison;
    CHECK(run(keys).parameters[0].values.array().isNaN().any());
  }
}

TEST_CASE("a query that sees nothing passes nothing back", "[layer]") {
  const layer_of_doubles layer(shape);
  const numbers x = any_numbers(4, 4), none(0, 4), out_gradient = any_numbers(4, 4, 2);
  const auto g = layer.backward(layer.forward(x, none, none).tape, out_gradient);
  CHECK((g.query.array() == 0).all());
  CHECK(g.query.rows() == 4);
  CHECK(g.key.rows() == 0);
  for (const auto& [name, values] : g.parameters) {
    if (name == "output.bias") {
      CHECK(same(values, out_gradient.colwise().sum()));
    } else {
      CHECK((values.array() == 0).all());
    }
  }
  const auto empty = layer.backward(layer.forward(none).tape, none);
  CHECK(empty.x.rows() == 0);
  CHECK((empty.parameters.back().values.array() == 0).all());
}

TEST_CASE("the executor does not change gradients", "[layer]") {
  const attn::multi_head_attention<float> layer({.heads = 2, .width = 8});
  const auto x = any_numbers(600, 8).cast<float>().eval();
  const auto run = [&](const attn::options& options) {
    return layer.backward(layer.forward(x, attn::causal(), options).tape, x, attn::causal(),
                          options);
  };
  const auto one = run({}), three = run({.executor = attn::std_threads(3)});
  CHECK(same(one.x, three.x));
  for (std::size_t n = 0; n < one.parameters.size(); ++n) {
    CHECK(same(one.parameters[n].values, three.parameters[n].values));
  }
}

TEST_CASE("a backward pass that does not fit is refused", "[layer]") {
  const layer_of_doubles layer(shape);
  const numbers x = any_numbers(5, 4);
  numbers target;
  const auto tape = layer.forward(x, attn::causal()).tape;
  const auto refused = [&](const auto&... arguments) {
    return message_of([&] { layer.backward(arguments...); });
  };
  CHECK(refused(tape, x.topRows(3), attn::causal()) ==
        "out_gradient is 3 x 4, it should be as the result, 5 x 4");
  CHECK(refused(tape, any_numbers(5, 3), attn::causal()) ==
        "out_gradient is 5 x 3, it should be as the result, 5 x 4");
  CHECK(refused(tape, x, Eigen::Matrix<bool, 5, 4>()) == "mask has 4 columns, key has 5 rows");
  CHECK(refused(tape, x, attn::causal(), attn::options{.dropout = {0.5, 3}}) ==
        "options.dropout has probability 0.5 and seed 3, it should be as in forward, 0 and 0");
  CHECK(refused(tape, x, attn::causal(), attn::options{}, attn::gradients{.key = target}) ==
        "also.query, key or value is given: their gradients are returned");
  CHECK(refused(tape, x, attn::causal(), attn::options{}, attn::gradients{.bias = target}) ==
        "gradients.bias is asked for, the mask has no bias");
  CHECK(target.size() == 0);
  const numbers bias = any_numbers(5, 5);
  layer_of_doubles wide({.heads = 1, .width = 5});
  const auto wide_tape = wide.forward(bias, bias).tape;
  CHECK(message_of([&] {
          wide.backward(wide_tape, bias, bias, {}, {.bias = wide.parameter("key.weight")});
        }) == "also.bias overlaps key.weight in memory: it would be written before that is read");
  auto own = wide_tape;
  CHECK(message_of([&] { wide.backward(own, bias, bias, {}, {.bias = own.inputs.x}); }) ==
        "also.bias overlaps the tape's inputs in memory: it would be written before that is read");

  auto emptied = tape;
  const auto taken = std::move(emptied.query);
  CHECK(refused(emptied, x, attn::causal())
            .starts_with("the tape's projected query is 0 x 0, it "
                         "should be 5 x 4"));
  const attn::multi_head_attention<double> wider({.width = 6});
  CHECK(message_of([&] { wider.backward(tape, x, attn::causal()); }) ==
        "the tape's query has 4 columns, the layer has width 6");
  const layer_of_doubles one_head({.heads = 1, .width = 4});
  CHECK(message_of([&] { one_head.backward(tape, x, attn::causal()); }) ==
        "the tape's log_sum_exp has the shape 1 x 2 x 5 x 1, it should have 1 x 1 x 5 x 1: a tape "
        "is of the same layer's forward");
  CHECK(message_of([&] { layer.forward(any_numbers(2, 3)); }) ==
        "query has 3 columns, the layer has width 4");
  CHECK(message_of([&] { layer.forward(x, {.weights = target}); }).starts_with("options.weights"));
  CHECK(message_of([&] { layer.forward_packed(x, std::vector<int>{0, 4}); }) ==
        "starts.query ends with 4, it should end with the 5 tokens there are");
}

}  // namespace
}  // namespace attn_test
