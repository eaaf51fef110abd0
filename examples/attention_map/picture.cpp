#include "picture.hpp"

#include <attn/multi_head_attention.hpp>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <string_view>

#include "encoder.hpp"
#include "error.hpp"
#include "text.hpp"

namespace attention_map {
namespace {

constexpr attn::index width = 64;
constexpr attn::index most_words = 512;

// One of `count` layers or heads, or a message that says which there are.
std::size_t checked(const char* what, int number, std::size_t count) {
  if (number < 0 || static_cast<std::size_t>(number) >= count) {
    if (count == 1) minilm::fail("there is no ", what, " ", number, ", only ", what, " 0");
    minilm::fail("there is no ", what, " ", number, ", the ", what, "s are 0 to ", count - 1);
  }
  return static_cast<std::size_t>(number);
}

struct defaults {
  int layer = 0;
  int head = 0;
};

// Fills in weights and source.
void choose(picture& shown, const std::vector<std::vector<Eigen::MatrixXf>>& layers,
            const choice& wanted, const defaults& otherwise, const std::string& whose) {
  const std::size_t layer = checked("layer", wanted.layer.value_or(otherwise.layer), layers.size());
  const std::vector<Eigen::MatrixXf>& heads = layers[layer];
  if (layers.size() > 1) shown.source = "layer " + std::to_string(layer) + ", ";
  if (wanted.mean_of_heads) {
    shown.weights = std::accumulate(heads.begin() + 1, heads.end(), heads.front());
    shown.weights /= static_cast<float>(heads.size());
    shown.source += "mean of " + std::to_string(heads.size()) + " heads";
  } else {
    const std::size_t head = checked("head", wanted.head.value_or(otherwise.head), heads.size());
    shown.weights = heads[head];
    shown.source += "head " + std::to_string(head);
  }
  shown.source += " of " + whose;
}

// The same numbers for a word everywhere: its FNV-1a hash seeds a generator.
Eigen::RowVectorXf embedding(std::string_view word) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const char byte : word) hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001b3;
  std::mt19937_64 generator(hash);
  const float bound = std::sqrt(3.0f);  // evenly drawn from [-√3, √3), variance 1
  return Eigen::RowVectorXf::NullaryExpr(
      width, [&] { return bound * (2 * static_cast<float>(generator() >> 40) / 0x1p24f - 1); });
}

// Where a word stands, as sines and cosines of many wavelengths (Vaswani et al. 2017, §3.5).
Eigen::RowVectorXf position_signal(attn::index position) {
  return Eigen::RowVectorXf::NullaryExpr(width, [&](attn::index i) {
    const double angle = static_cast<double>(position) *
                         std::pow(10000, -static_cast<double>(i - i % 2) / double{width});
    return static_cast<float>(i % 2 == 0 ? std::sin(angle) : std::cos(angle));
  });
}

}  // namespace

void require_numbers(const picture& shown) {
  if (shown.weights.allFinite()) return;
  minilm::fail("the attention in ", shown.source,
               " is not a number everywhere, it should be between 0 and 1");
}

picture from_random_weights(const std::string& text, const choice& wanted) {
  picture shown{text, {}, words(text), {}};
  const auto length = static_cast<attn::index>(shown.tokens.size());
  if (length == 0) minilm::fail("the text is empty");
  if (length > most_words) {
    minilm::fail("the text has ", length, " words, at most ", most_words, " can be shown");
  }
  Eigen::MatrixXf x(length, width);
  for (attn::index i = 0; i < length; ++i) {
    x.row(i) = embedding(shown.tokens[static_cast<std::size_t>(i)]) + position_signal(i);
  }
  const attn::multi_head_attention<float> layer({.heads = 4, .seed = 1, .width = width});
  choose(shown, {layer.with_weights(x, x, x).weights}, wanted, {.layer = 0, .head = 0},
         "a layer with random weights");
  return shown;
}

picture from_model(const std::filesystem::path& folder, const std::string& text,
                   const choice& wanted) {
  if (!std::filesystem::exists(folder / "model.safetensors")) {
    minilm::fail("no model.safetensors in \"", folder.string(),
                 "\"; attention_map --help says how to get it");
  }
  const minilm::encoder encoder(folder);
  const minilm::encoding encoded =
      encoder.tokenize(text, std::numeric_limits<std::size_t>::max());  // run() knows the limit
  if (encoded.ids.size() == 2) minilm::fail("the text is empty");       // [CLS] [SEP]
  picture shown{text, {}, encoded.pieces, {}};
  choose(shown, encoder.run(encoded.ids).weights, wanted, {.layer = 1, .head = 7},
         "a trained sentence encoder");
  return shown;
}

}  // namespace attention_map
