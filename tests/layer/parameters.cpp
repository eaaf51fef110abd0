// The first values of a layer's parameters, and access to them by name.
#include <attn/additive_attention.hpp>
#include <attn/multi_head_attention.hpp>
#include <bit>

#include "layer/layers.hpp"
#include "support/catch.hpp"

namespace attn_test {
namespace {

// Heads of 4 columns, and of 2 for the value.
const attn::multi_head_attention_options uneven{.head_width = 4,
                                                .heads = 2,
                                                .key_width = 3,
                                                .seed = 42,
                                                .value_head_width = 2,
                                                .value_width = 5,
                                                .width = 6};

// FNV-1a over the bits of the weights, column after column.
template <class Layer>
std::uint64_t checksum(const Layer& layer) {
  std::uint64_t hash = 14695981039346656037u;
  for (const auto& [name, values] : layer.parameters()) {
    if (name.find(".weight") == std::string::npos) continue;
    for (index j = 0; j < values.cols(); ++j) {
      for (index i = 0; i < values.rows(); ++i) {
        hash = (hash ^ std::bit_cast<std::uint64_t>(values(i, j))) * 1099511628211u;
      }
    }
  }
  return hash;
}

TEST_CASE("a seed stands for the same parameters everywhere", "[layer]") {
  // Worked out by another program, from the definition of the generator.
  const attn::multi_head_attention<double> layer(uneven);
  CHECK(checksum(layer) == 0x3fb8de39df336504u);
  CHECK(layer.parameter("query.weight")(0, 0) == 0.33407701250027827);
  CHECK(layer.parameter("query.weight")(1, 0) == 0.18203482466124832);

  auto other = uneven;
  other.bias = false;
  CHECK(checksum(attn::multi_head_attention<double>(other)) == 0x3fb8de39df336504u);
  other.seed = 43;
  CHECK(checksum(attn::multi_head_attention<double>(other)) != 0x3fb8de39df336504u);

  const attn::multi_head_attention<float> narrow(uneven);
  for (const auto& [name, values] : layer.parameters()) {
    CHECK(same(narrow.parameter(name), values.cast<float>()));
  }
}

TEST_CASE("first weights fill Xavier's bounds evenly, biases are 0", "[layer]") {
  const attn::multi_head_attention<double> layer({.heads = 4, .key_width = 200, .width = 100});
  for (const auto& [name, values] : layer.parameters()) {
    INFO(name);
    if (values.rows() == 1) {
      CHECK((values.array() == 0).all());
      continue;
    }
    const auto n = static_cast<double>(values.size());
    const double bound = std::sqrt(6.0 / static_cast<double>(values.rows() + values.cols()));
    CHECK(values.cwiseAbs().maxCoeff() <= bound);
    CHECK(values.maxCoeff() > 0.99 * bound);
    CHECK(values.minCoeff() < -0.99 * bound);
    // Within five standard deviations: of the mean, and of the mean square, of n draws.
    CHECK(std::abs(values.mean()) < 5 * bound / std::sqrt(3 * n));
    CHECK(std::abs(values.squaredNorm() / n - bound * bound / 3) <
          5 * bound * bound * std::sqrt(4.0 / 45 / n));
  }
}

TEST_CASE("parameters have names and shapes", "[layer]") {
  const auto listed = [](const auto& layer) {
    std::string text;
    for (const auto& [name, values] : layer.parameters()) {
      text +=
          name + " " + std::to_string(values.rows()) + "x" + std::to_string(values.cols()) + "\n";
    }
    return text;
  };
  attn::multi_head_attention_options shape = uneven;
  CHECK(listed(attn::multi_head_attention<float>(shape)) ==
        "query.weight 6x8\nquery.bias 1x8\nkey.weight 3x8\nkey.bias 1x8\n"
        "value.weight 5x4\nvalue.bias 1x4\noutput.weight 4x6\noutput.bias 1x6\n");
  shape.bias = false;
  CHECK(listed(attn::multi_head_attention<float>(shape)) ==
        "query.weight 6x8\nkey.weight 3x8\nvalue.weight 5x4\noutput.weight 4x6\n");
  CHECK(listed(attn::additive_attention<float>({.hidden_width = 7, .key_width = 2, .width = 3})) ==
        "query.weight 3x7\nkey.weight 2x7\nscore.weight 7x1\n");

  const attn::multi_head_attention<float> layer(shape);
  CHECK(message_of([&] { (void)layer.parameter("query.bias"); }) ==
        "parameter is called \"query.bias\", the layer has query.weight, key.weight, value.weight, "
        "output.weight");
  CHECK(message_of([&] { (void)attn::additive_attention<float>({.width = 3}).parameter(""); }) ==
        "parameter is called \"\", the layer has query.weight, key.weight, score.weight");
}

TEST_CASE("what is assigned to a parameter is what the layer computes with", "[layer]") {
  generator g(1);
  const auto x = any_matrix<matrix<double>>(g, 5, 6);
  attn::multi_head_attention<double> layer({.heads = 2, .width = 6});
  const auto before = layer(x);
  const attn::multi_head_attention<double> copy = layer;
  layer.parameter("value.weight") *= -1;
  CHECK(same(layer(x), -before));
  layer.parameter("output.bias").setConstant(2);
  CHECK(same(layer(x), (2 - before.array()).matrix()));
  for (auto& [name, values] : layer.parameters()) values.setZero();
  CHECK(layer(x).isZero(0));
  CHECK(same(copy(x), before));
}

}  // namespace
}  // namespace attn_test
