// Loading parameters: orders of other frameworks, and refusals.
// The results to six digits and more were computed by PyTorch 2.15 and Keras 3.15 from the same
// small fractions that the tests make.
#include <attn/additive_attention.hpp>
#include <attn/multi_head_attention.hpp>

#include "layer/layers.hpp"
#include "support/catch.hpp"

namespace attn_test {
namespace {

// Small eighths, without symmetry, so that no order of reading them looks like another.
template <class Scalar>
Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic> eighths(index rows, index cols, index a,
                                                              index b) {
  Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic> m(rows, cols);
  for (index i = 0; i < rows; ++i) {
    for (index j = 0; j < cols; ++j) {
      m(i, j) = static_cast<Scalar>((i * a + j * b) % 13 - 6) / 8;
    }
  }
  return m;
}

// Expected numbers have nine digits.
template <class Scalar>
constexpr double printed = std::is_same_v<Scalar, float> ? 1e-6 : 1e-9;

template <class Scalar>
struct inputs {
  matrix<Scalar> query = eighths<Scalar>(3, 4, 7, 3);
  matrix<Scalar> key = eighths<Scalar>(5, 3, 2, 5);
  matrix<Scalar> value = eighths<Scalar>(5, 5, 4, 3);
};

template <class Scalar>
attn::tensors<Scalar> pytorch_of_one_width() {
  return {{"in_proj_weight", eighths<Scalar>(12, 4, 5, 3)},
          {"in_proj_bias", eighths<Scalar>(1, 12, 1, 5)},
          {"out_proj.weight", eighths<Scalar>(4, 4, 3, 7)},
          {"out_proj.bias", eighths<Scalar>(1, 4, 1, 3)}};
}

template <class Scalar>
attn::tensors<Scalar> pytorch_of_three_widths() {
  attn::tensors<Scalar> from = pytorch_of_one_width<Scalar>();
  from.erase("in_proj_weight");
  from["q_proj_weight"] = eighths<Scalar>(4, 4, 5, 3);
  from["k_proj_weight"] = eighths<Scalar>(4, 3, 3, 5);
  from["v_proj_weight"] = eighths<Scalar>(4, 5, 7, 2);
  return from;
}

template <class Scalar>
attn::tensors<Scalar> keras() {
  return {{"query/kernel", eighths<Scalar>(4, 6, 5, 3)},
          {"query/bias", eighths<Scalar>(1, 6, 1, 5)},
          {"key/kernel", eighths<Scalar>(3, 6, 3, 5)},
          {"key/bias", eighths<Scalar>(1, 6, 1, 7)},
          {"value/kernel", eighths<Scalar>(5, 4, 7, 2)},
          {"value/bias", eighths<Scalar>(1, 4, 1, 4)},
          {"attention_output/kernel", eighths<Scalar>(4, 4, 3, 7)},
          {"attention_output/bias", eighths<Scalar>(1, 4, 1, 3)}};
}

const attn::multi_head_attention_options keras_shape{.head_width = 3,
                                                     .heads = 2,
                                                     .key_width = 3,
                                                     .value_head_width = 2,
                                                     .value_width = 5,
                                                     .width = 4};

TEMPLATE_TEST_CASE("PyTorch's parameters give PyTorch's results", "[layer]", float, double) {
  attn::multi_head_attention<TestType> layer({.heads = 2, .width = 4});
  layer.load_pytorch(pytorch_of_one_width<TestType>());
  const matrix<TestType> x = inputs<TestType>().query;
  matrix<double> expected(3, 4), first_head(3, 3), second_head(3, 3);
  expected << -0.893481460, -0.640497687, 0.388798538, 0.641782310,  //
      -1.012837344, -0.575450327, 0.232621741, 0.670008758,          //
      -0.914987594, -0.655787637, 0.395011811, 0.654211768;
  first_head << 0.328260858, 0.348706402, 0.323032739,  //
      0.424906272, 0.131294510, 0.443799218,            //
      0.337981218, 0.327866604, 0.334152179;
  second_head << 0.313061005, 0.375924971, 0.311014024,  //
      0.436665680, 0.152838775, 0.410495546,             //
      0.309400069, 0.382000018, 0.308599913;
  const auto [out, weights] = layer.with_weights(x, x, x);
  CHECK(distance(expected, out) < printed<TestType>);
  CHECK(distance(first_head, weights[0]) < printed<TestType>);
  CHECK(distance(second_head, weights[1]) < printed<TestType>);

  expected << -1.111328125, -0.578125000, 0.183593750, 0.716796875,  //
      -0.979790911, -0.648228262, 0.351627981, 0.683190630,          //
      -0.914987594, -0.655787637, 0.395011811, 0.654211768;
  CHECK(distance(expected, layer(x, x, x, attn::causal())) < printed<TestType>);
}

TEMPLATE_TEST_CASE("... also where key and value have widths of their own", "[layer]", float,
                   double) {
  attn::multi_head_attention<TestType> layer(
      {.heads = 2, .key_width = 3, .value_width = 5, .width = 4});
  layer.load_pytorch(pytorch_of_three_widths<TestType>());
  const inputs<TestType> in;
  matrix<double> expected(3, 4);
  expected << -0.952897453, -0.718239965, 0.465639912, 0.700297399,  //
      -0.866472898, -0.714109930, 0.526337940, 0.678700909,          //
      -0.948764965, -0.717426129, 0.469489721, 0.700828557;
  CHECK(distance(expected, layer(in.query, in.key, in.value)) < printed<TestType>);
}

TEST_CASE("weights of one row or column may lie or stand", "[layer]") {
  using matrix = Eigen::MatrixXf;
  const attn::tensors<float> from{{"q_proj_weight", eighths<float>(1, 1, 3, 1)},
                                  {"k_proj_weight", eighths<float>(5, 1, 3, 1)},
                                  {"v_proj_weight", eighths<float>(1, 2, 3, 1)},
                                  {"out_proj.weight", eighths<float>(1, 1, 3, 1)}};
  attn::multi_head_attention<float> narrow(
      {.bias = false, .heads = 1, .key_width = 5, .value_width = 2, .width = 1});
  narrow.load_pytorch(from);
  CHECK(narrow.key_width() == 5);
  CHECK(narrow.parameter("key.weight") == matrix(from.at("k_proj_weight")));
  CHECK(narrow.parameter("value.weight") == matrix(from.at("v_proj_weight").transpose()));

  attn::multi_head_attention<float> of_one_key_feature(
      {.bias = false, .heads = 2, .key_width = 1, .value_width = 1, .width = 4});
  of_one_key_feature.load_pytorch({{"q_proj_weight", eighths<float>(4, 4, 3, 1)},
                                   {"k_proj_weight", eighths<float>(1, 4, 3, 1)},
                                   {"v_proj_weight", eighths<float>(4, 1, 3, 1)},
                                   {"out_proj.weight", eighths<float>(4, 4, 3, 1)}});
  CHECK(of_one_key_feature.parameter("key.weight") == matrix(eighths<float>(1, 4, 3, 1)));
  CHECK(of_one_key_feature.parameter("value.weight") ==
        matrix(eighths<float>(4, 1, 3, 1).transpose()));
}

TEMPLATE_TEST_CASE("Keras' parameters give Keras' results", "[layer]", float, double) {
  attn::multi_head_attention<TestType> layer(keras_shape);
  layer.load_keras(keras<TestType>());
  const inputs<TestType> in;
  matrix<double> expected(3, 4), second_head(3, 5);
  expected << 0.137733441, -1.117174511, 0.902144006, -0.352763946,  //
      0.132811629, -1.076748986, 0.899137224, -0.310423391,          //
      0.133331241, -1.113449239, 0.898874416, -0.347906065;
  second_head << 0.173041529, 0.181025356, 0.152274642, 0.159300322, 0.334358151,  //
      0.145349634, 0.154083911, 0.220603702, 0.233860110, 0.246102644,             //
      0.172835450, 0.180300766, 0.153190585, 0.159807377, 0.333865822;
  const auto [out, weights] = layer.with_weights(in.query, in.key, in.value);
  CHECK(distance(expected, out) < printed<TestType>);
  CHECK(distance(second_head, weights[1]) < printed<TestType>);
}

TEST_CASE("every number of the other orders goes to its place", "[layer]") {
  attn::multi_head_attention<double> layer({.heads = 2, .width = 4});
  const auto from = pytorch_of_one_width<double>();
  layer.load_pytorch(from);
  const std::vector<std::string> stacked{"query", "key", "value"};
  for (index part = 0; part < 3; ++part) {
    const std::string& name = stacked[static_cast<std::size_t>(part)];
    for (index out = 0; out < 4; ++out) {
      CHECK(layer.parameter(name + ".bias")(0, out) == from.at("in_proj_bias")(0, part * 4 + out));
      for (index in = 0; in < 4; ++in) {
        CHECK(layer.parameter(name + ".weight")(in, out) ==
              from.at("in_proj_weight")(part * 4 + out, in));
      }
    }
  }

  // Keras' kernels of three axes, written as NumPy stores them.
  attn::multi_head_attention<double> other(keras_shape);
  std::vector<double> query_kernel, output_kernel;
  for (int i = 0; i < 4 * 2 * 3; ++i) query_kernel.push_back(i);
  for (int i = 0; i < 2 * 2 * 4; ++i) output_kernel.push_back(-i);
  auto tensors = keras<double>();
  tensors["query/kernel"] = Eigen::Map<const matrix<double>>(query_kernel.data(), 4, 6);
  tensors["attention_output/kernel"] = Eigen::Map<const matrix<double>>(output_kernel.data(), 4, 4);
  other.load_keras(tensors);
  for (index head = 0; head < 2; ++head) {
    for (index e = 0; e < 4; ++e) {
      for (index d = 0; d < 3; ++d) {
        const auto at = static_cast<std::size_t>((e * 2 + head) * 3 + d);
        CHECK(other.parameter("query.weight")(e, head * 3 + d) == query_kernel[at]);
      }
      for (index d = 0; d < 2; ++d) {
        const auto at = static_cast<std::size_t>((head * 2 + d) * 4 + e);
        CHECK(other.parameter("output.weight")(head * 2 + d, e) == output_kernel[at]);
      }
    }
  }
}

TEST_CASE("a layer's own names load another layer", "[layer]") {
  generator g(3);
  attn::multi_head_attention<double> layer(keras_shape), copy(keras_shape);
  fill(layer, g);
  attn::tensors<double> saved;
  for (const auto& [name, values] : layer.parameters()) saved[name] = values;
  saved["query.bias"].transposeInPlace();  // a vector may stand, too
  copy.load(saved);
  for (const auto& [name, values] : layer.parameters()) CHECK(same(copy.parameter(name), values));

  attn::additive_attention<double> additive({.hidden_width = 2, .width = 3});
  additive.load({{"query.weight", eighths<double>(3, 2, 1, 4)},
                 {"key.weight", eighths<double>(3, 2, 5, 2)},
                 {"score.weight", eighths<double>(2, 1, 3, 0)}});
  CHECK(same(additive.parameter("key.weight"), eighths<double>(3, 2, 5, 2)));
}

TEST_CASE("without biases, none are loaded", "[layer]") {
  attn::multi_head_attention<double> layer({.bias = false, .heads = 2, .width = 4});
  auto from = pytorch_of_one_width<double>();
  CHECK(message_of([&] { layer.load_pytorch(from); }) ==
        "in_proj_bias is unknown, the layer loads in_proj_weight, out_proj.weight");
  from.erase("in_proj_bias");
  from.erase("out_proj.bias");
  layer.load_pytorch(from);
  CHECK(layer.parameter("output.weight")(1, 2) == from.at("out_proj.weight")(2, 1));
}

TEST_CASE("what does not fit is refused, and nothing is changed", "[layer]") {
  attn::multi_head_attention<double> layer({.heads = 2, .width = 4});
  const matrix<double> before = layer.parameter("query.weight");
  auto from = pytorch_of_one_width<double>();
  from["out_proj.bias"] = eighths<double>(1, 5, 1, 1);
  CHECK(message_of([&] { layer.load_pytorch(from); }) ==
        "out_proj.bias is 1 x 5, it should be 1 x 4");
  from.erase("out_proj.bias");
  CHECK(message_of([&] { layer.load_pytorch(from); }) ==
        "out_proj.bias is missing, the layer loads in_proj_weight, in_proj_bias, out_proj.weight, "
        "out_proj.bias");
  from = pytorch_of_one_width<double>();
  from["in_proj_weight"].transposeInPlace();
  CHECK(message_of([&] { layer.load_pytorch(from); }) ==
        "in_proj_weight is 4 x 12, it should be 12 x 4");
  from = pytorch_of_one_width<double>();
  from["bias_k"] = eighths<double>(1, 4, 1, 1);
  CHECK(message_of([&] { layer.load_pytorch(from); }) ==
        "bias_k is unknown, the layer loads in_proj_weight, in_proj_bias, out_proj.weight, "
        "out_proj.bias");
  CHECK(message_of([&] {
          layer.load_pytorch(pytorch_of_three_widths<double>());
        }).find("in_proj_weight is missing") == 0);
  CHECK(message_of([&] { layer.load_keras(keras<double>()); }) ==
        "query/kernel is 4 x 6, it should be 4 x 4");
  CHECK(message_of([&] { layer.load({}); }).find("query.weight is missing") == 0);
  CHECK(same(layer.parameter("query.weight"), before));

  attn::multi_head_attention<double> other(keras_shape);
  CHECK(message_of([&] { other.load_pytorch(pytorch_of_three_widths<double>()); }) ==
        "head_width is 3 and value_head_width 2, in PyTorch both are width / heads");
}

}  // namespace
}  // namespace attn_test
