// A model of the same architecture as all-MiniLM-L6-v2, small enough to be made up on the spot, and
// what it must compute: the definition in plain loops over doubles, sharing no code with the
// encoder.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "encoder.hpp"
#include "files.hpp"

namespace minilm_test {

inline constexpr minilm::architecture small = {
    .layers = 2, .heads = 3, .width = 12, .inner_width = 20, .positions = 9};

inline const std::string small_vocabulary =
    "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nto\nbe\nor\nnot\n,\n##e\n";

inline std::vector<named_tensor> small_tensors() {
  std::mt19937 random(7);
  const auto value = [&] { return static_cast<float>(random()) / 4294967296.0F - 0.5F; };
  std::vector<named_tensor> tensors;
  const auto add = [&](const std::string& name, const std::vector<int>& shape, float scale) {
    std::size_t size = 1;
    for (const int extent : shape) size *= static_cast<std::size_t>(extent);
    named_tensor tensor{name, shape, std::vector<float>(size)};
    for (float& x : tensor.values) x = scale * value();
    tensors.push_back(tensor);
  };
  const auto add_layer_norm = [&](const std::string& name) {
    add(name + ".weight", {small.width}, 2);
    add(name + ".bias", {small.width}, 1);
  };
  const auto add_linear = [&](const std::string& name, int outputs, int inputs) {
    add(name + ".weight", {outputs, inputs}, 2);
    add(name + ".bias", {outputs}, 1);
  };
  add("embeddings.word_embeddings.weight", {11, small.width}, 2);
  add("embeddings.position_embeddings.weight", {small.positions, small.width}, 1);
  add("embeddings.token_type_embeddings.weight", {2, small.width}, 1);
  add_layer_norm("embeddings.LayerNorm");
  for (int l = 0; l < small.layers; ++l) {
    const std::string layer = "encoder.layer." + std::to_string(l) + ".";
    for (const char* name : {"self.query", "self.key", "self.value", "output.dense"}) {
      add_linear(layer + "attention." + name, small.width, small.width);
    }
    add_layer_norm(layer + "attention.output.LayerNorm");
    add_linear(layer + "intermediate.dense", small.inner_width, small.width);
    add_linear(layer + "output.dense", small.width, small.inner_width);
    add_layer_norm(layer + "output.LayerNorm");
  }
  return tensors;
}

using table = std::vector<std::vector<double>>;  // a row a token

class small_reference {
 public:
  explicit small_reference(const std::vector<named_tensor>& tensors) {
    for (const named_tensor& tensor : tensors) tensors_[tensor.name] = tensor;
  }

  std::vector<table> hidden;                // as in minilm::trace
  std::vector<std::vector<table>> weights;  // [layer][head]

  // The embedding of a text with these ids.
  std::vector<double> run(const std::vector<int>& ids) {
    table x = embed(ids);
    hidden.push_back(x);
    for (int l = 0; l < small.layers; ++l) {
      const std::string layer = "encoder.layer." + std::to_string(l) + ".";
      const std::string attention = layer + "attention.";
      const table o = linear(attend(x, attention + "self."), attention + "output.dense");
      const table y = layer_norm(sum(x, o), attention + "output.LayerNorm");
      table inner = linear(y, layer + "intermediate.dense");
      for (auto& row : inner) {
        for (double& z : row) z = 0.5 * z * (1 + std::erf(z / std::sqrt(2.0)));
      }
      x = layer_norm(sum(y, linear(inner, layer + "output.dense")), layer + "output.LayerNorm");
      hidden.push_back(x);
    }
    return normalised_mean(x);
  }

 private:
  double at(const std::string& name, std::size_t i) const { return tensors_.at(name).values.at(i); }

  table embed(const std::vector<int>& ids) const {
    constexpr auto width = static_cast<std::size_t>(small.width);
    table x(ids.size(), std::vector<double>(width));
    for (std::size_t i = 0; i < ids.size(); ++i) {
      for (std::size_t c = 0; c < width; ++c) {
        const std::size_t id = static_cast<std::size_t>(ids[i]);
        x[i][c] = at("embeddings.word_embeddings.weight", id * width + c) +
                  at("embeddings.position_embeddings.weight", i * width + c) +
                  at("embeddings.token_type_embeddings.weight", c);
      }
    }
    return layer_norm(x, "embeddings.LayerNorm");
  }

  table linear(const table& x, const std::string& name) const {
    const auto outputs = static_cast<std::size_t>(tensors_.at(name + ".weight").shape[0]);
    table y;
    for (const auto& row : x) {
      y.emplace_back();
      for (std::size_t o = 0; o < outputs; ++o) {
        double dot = at(name + ".bias", o);
        for (std::size_t i = 0; i < row.size(); ++i) {
          dot += row[i] * at(name + ".weight", o * row.size() + i);
        }
        y.back().push_back(dot);
      }
    }
    return y;
  }

  table layer_norm(table x, const std::string& name) const {
    for (auto& row : x) {
      const auto n = static_cast<double>(row.size());
      double mean = 0, variance = 0;
      for (const double z : row) mean += z / n;
      for (const double z : row) variance += (z - mean) * (z - mean) / n;
      for (std::size_t c = 0; c < row.size(); ++c) {
        row[c] = (row[c] - mean) / std::sqrt(variance + 1e-12) * at(name + ".weight", c) +
                 at(name + ".bias", c);
      }
    }
    return x;
  }

  static table sum(table a, const table& b) {
    for (std::size_t i = 0; i < a.size(); ++i) {
      for (std::size_t c = 0; c < a[i].size(); ++c) a[i][c] += b[i][c];
    }
    return a;
  }

  table attend(const table& x, const std::string& name) {
    constexpr std::size_t d = small.width / small.heads;
    const table q = linear(x, name + "query"), k = linear(x, name + "key"),
                v = linear(x, name + "value");
    table out(x.size(), std::vector<double>(small.width));
    weights.emplace_back();
    for (std::size_t first = 0; first < small.width; first += d) {
      table p(x.size());
      for (std::size_t i = 0; i < x.size(); ++i) {
        double total = 0;
        for (std::size_t j = 0; j < x.size(); ++j) {
          double score = 0;
          for (std::size_t c = first; c < first + d; ++c) score += q[i][c] * k[j][c];
          p[i].push_back(std::exp(score / std::sqrt(static_cast<double>(d))));
          total += p[i].back();
        }
        for (std::size_t j = 0; j < x.size(); ++j) {
          p[i][j] /= total;
          for (std::size_t c = first; c < first + d; ++c) out[i][c] += p[i][j] * v[j][c];
        }
      }
      weights.back().push_back(p);
    }
    return out;
  }

  static std::vector<double> normalised_mean(const table& x) {
    std::vector<double> mean(x[0].size());
    double squares = 0;
    for (std::size_t c = 0; c < mean.size(); ++c) {
      for (const auto& row : x) mean[c] += row[c] / static_cast<double>(x.size());
      squares += mean[c] * mean[c];
    }
    for (double& z : mean) z /= std::sqrt(squares);
    return mean;
  }

  std::map<std::string, named_tensor> tensors_;
};

}  // namespace minilm_test
