// What is shown: who attends to whom in a text, from one head of a layer.
#pragma once

#include <Eigen/Core>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace attention_map {

struct picture {
  std::string text;                 // as it was given
  std::string source;               // whose attention it is, in words
  std::vector<std::string> tokens;  // of the text
  Eigen::MatrixXf weights;          // row i: how token i divides its attention; sums to 1
};

// Throws where a weight is not a number, as with a model whose parameters are not.
void require_numbers(const picture& shown);

// Which layer and head, counted from 0; what is not chosen takes a telling default.
struct choice {
  std::optional<int> layer = std::nullopt;
  std::optional<int> head = std::nullopt;
  bool mean_of_heads = false;
};

// From a layer with random weights that needs no files: a word's embedding is drawn from its hash.
picture from_random_weights(const std::string& text, const choice& wanted);

// From a trained sentence encoder: the folder holds model.safetensors and vocab.txt.
picture from_model(const std::filesystem::path& folder, const std::string& text,
                   const choice& wanted);

}  // namespace attention_map
