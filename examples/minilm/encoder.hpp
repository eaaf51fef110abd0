// A sentence encoder of the BERT family, from its raw files: text to a vector of length 1, such
// that texts that mean the same point the same way. Attention is attn's, in every layer and head.
#pragma once

#include <Eigen/Core>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "layers.hpp"
#include "safetensors.hpp"
#include "tokenizer.hpp"

namespace minilm {

// What the files do not say, or must agree with. The defaults are those of all-MiniLM-L6-v2.
struct architecture {
  int layers = 6;
  int heads = 12;
  int width = 384;
  int inner_width = 1536;
  int positions = 512;
};

// What a run looked like inside.
struct trace {
  std::vector<Eigen::MatrixXf> hidden;  // the embeddings, then each layer's output
  std::vector<std::vector<Eigen::MatrixXf>>
      weights;  // [layer][head]: row i sums to 1 over the keys
};

// What a pass took, and how much of it attention.
struct seconds {
  double all = 0;
  double attention = 0;
};

class encoder {
 public:
  // The folder holds model.safetensors and vocab.txt.
  explicit encoder(const std::filesystem::path& folder, const architecture& shape = {});

  encoding tokenize(std::string_view text, std::size_t max_tokens = 256) const;
  Eigen::VectorXf embed(std::string_view text, std::size_t max_tokens = 256) const;
  Eigen::MatrixXf embed(const std::vector<std::string>& texts) const;  // a row a text
  trace run(const std::vector<int>& ids) const;
  // One pass over made-up texts of as many tokens each, [CLS] and [SEP] among them.
  seconds time(int texts, int tokens) const;

  int layers() const { return shape_.layers; }
  int heads() const { return shape_.heads; }

 private:
  struct layer {
    linear query, key, value, merge;
    layer_norm after_attention;
    linear widen, narrow;
    layer_norm after_all;
  };

  matrix_map load_matrix(const std::string& name, std::int64_t rows, std::int64_t cols);
  row_map load_row(const std::string& name, std::int64_t size);
  linear load_linear(const std::string& name, int outputs, int inputs);
  layer_norm load_layer_norm(const std::string& name);
  layer load_layer(int number);

  // Texts one after the other: the ids of text n are [starts[n], starts[n + 1]).
  struct packed_texts {
    std::vector<int> ids;
    std::vector<std::int64_t> starts{0};

    void add(const std::vector<int>& text);
  };

  activations embed_ids(const packed_texts& texts) const;
  void attend(const activations& q, const activations& k, const activations& v, activations& out,
              const packed_texts& texts, trace* seen) const;
  activations forward(const packed_texts& texts, trace* seen, seconds* taken = nullptr) const;
  void embed(const packed_texts& texts, Eigen::MatrixXf& embeddings, Eigen::Index first) const;

  architecture shape_;
  tokenizer tokenizer_;
  safetensors file_;  // the maps below point into it
  matrix_map word_, token_type_, position_;
  layer_norm after_embedding_;
  std::vector<layer> layers_;
};

}  // namespace minilm
