// Gradients reach every parameter and every input: layers of numbers that carry derivatives,
// against central differences and the layer's own backward pass.
#include <attn/additive_attention.hpp>
#include <attn/multi_head_attention.hpp>
#include <unsupported/Eigen/AutoDiff>

#include "layer/layers.hpp"
#include "support/catch.hpp"

namespace attn_test {
namespace {

using derivatives = Eigen::VectorXd;
using dual = Eigen::AutoDiffScalar<derivatives>;
template <class Scalar>
using plain = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>;

// Sets number `i` of a layer's parameters and one input, counted through, to `set(number, i)`.
template <class Layer, class Input, class Set>
void each_number(Layer& layer, Input& x, const Set& set) {
  index i = 0;
  for (auto& [name, values] : layer.parameters()) {
    for (index n = 0; n < values.size(); ++n) set(values.data()[n], i++);
  }
  for (index n = 0; n < x.size(); ++n) set(x.data()[n], i++);
}

// A loss that weighs every number of the result differently.
template <class Out>
auto loss(const Out& out) {
  typename Out::Scalar sum(0);
  for (index i = 0; i < out.rows(); ++i) {
    for (index j = 0; j < out.cols(); ++j) {
      sum += out(i, j) * typename Out::Scalar(std::cos(static_cast<double>(1 + 3 * i + 5 * j)));
    }
  }
  return sum;
}

// `call(layer, x)` is one result, in doubles and in duals. Returns the gradients in the order of
// `each_number`.
template <class Layer, class DualLayer, class Call>
derivatives check_gradient(Layer layer, DualLayer dual_layer, plain<double> x, const Call& call) {
  std::vector<double> numbers;
  each_number(layer, x, [&](double& value, index) { numbers.push_back(value); });

  const auto count = static_cast<index>(numbers.size());
  plain<dual> dual_x(x.rows(), x.cols());
  each_number(dual_layer, dual_x, [&](dual& value, index i) {
    value = dual(numbers[static_cast<std::size_t>(i)], derivatives::Unit(count, i));
  });
  const derivatives gradient = loss(call(dual_layer, dual_x)).derivatives();
  REQUIRE(gradient.size() == count);

  const double h = tolerance::central_difference_step(tolerance::eps<double>());
  const auto moved = [&](index which, double by) {
    each_number(layer, x, [&](double& value, index i) {
      value = numbers[static_cast<std::size_t>(i)] + (i == which ? by : 0);
    });
    return loss(call(layer, x));
  };
  for (index i = 0; i < count; ++i) {
    INFO("number " << i);
    CHECK(std::abs(gradient(i) - (moved(i, h) - moved(i, -h)) / (2 * h)) <
          tolerance::central_difference(tolerance::eps<double>()));
  }
  CHECK(gradient.array().abs().maxCoeff() > 0.1);
  return gradient;
}

TEST_CASE("gradients of multi-head attention", "[layer]") {
  const attn::multi_head_attention_options shape{.heads = 2, .width = 4};
  attn::multi_head_attention<double> layer(shape);
  generator g(1);
  fill(layer, g, 1);
  const auto x = any_matrix<plain<double>>(g, 3, 4);
  const attn::options options{.dropout = {.probability = 0.3, .seed = 1}, .scale = 0.8};
  const derivatives expected =
      check_gradient(layer, attn::multi_head_attention<dual>(shape), x,
                     [&](const auto& any_layer, const auto& any_x) {
                       return any_layer(any_x, any_x, any_x, attn::causal(), options);
                     });

  const plain<double> out_gradient = plain<double>::NullaryExpr(
      3, 4, [](index i, index j) { return std::cos(static_cast<double>(1 + 3 * i + 5 * j)); });
  const auto [out, tape] = layer.forward(x, attn::causal(), options);
  const auto found = layer.backward(tape, out_gradient, attn::causal(), options);
  const double allowed = tolerance::reordered_sum<double>(30, 10);
  index i = 0;
  for (const auto& [name, values] : found.parameters) {
    INFO(name);
    CHECK((values.reshaped() - expected.segment(i, values.size())).cwiseAbs().maxCoeff() < allowed);
    i += values.size();
  }
  const plain<double> of_x = found.x;
  CHECK((of_x.reshaped() - expected.tail(of_x.size())).cwiseAbs().maxCoeff() < allowed);
  CHECK(i + of_x.size() == expected.size());
}

TEST_CASE("gradients of additive attention", "[layer]") {
  const attn::additive_attention_options shape{.hidden_width = 5, .width = 3};
  attn::additive_attention<double> layer(shape);
  generator g(1);
  fill(layer, g, 1);
  check_gradient(layer, attn::additive_attention<dual>(shape), any_matrix<plain<double>>(g, 4, 3),
                 [](const auto& any_layer, const auto& x) {
                   return any_layer(x, x, x, attn::sliding_window(1, 2));
                 });
}

}  // namespace
}  // namespace attn_test
