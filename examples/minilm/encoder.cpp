#include "encoder.hpp"

#include <algorithm>
#include <attn/attention.hpp>

#include "error.hpp"

namespace minilm {
namespace {

architecture checked(const architecture& shape) {
  if (shape.heads < 1 || shape.width % shape.heads != 0) {
    fail("the width ", shape.width, " does not divide into ", shape.heads, " heads");
  }
  return shape;
}

}  // namespace

encoder::encoder(const std::filesystem::path& folder, const architecture& shape)
    : shape_(checked(shape)),
      tokenizer_(folder / "vocab.txt"),
      file_(folder / "model.safetensors"),
      word_(load_matrix("embeddings.word_embeddings.weight",
                        static_cast<std::int64_t>(tokenizer_.size()), shape.width)),
      token_type_(load_matrix("embeddings.token_type_embeddings.weight", 2, shape.width)),
      position_(load_matrix("embeddings.position_embeddings.weight", shape.positions, shape.width)),
      after_embedding_(load_layer_norm("embeddings.LayerNorm")) {
  for (int i = 0; i < shape.layers; ++i) layers_.push_back(load_layer(i));
}

encoding encoder::tokenize(std::string_view text, std::size_t max_tokens) const {
  return tokenizer_.encode(text, max_tokens);
}

Eigen::VectorXf encoder::embed(std::string_view text, std::size_t max_tokens) const {
  const activations last = forward(tokenize(text, max_tokens).ids, nullptr);
  const Eigen::VectorXd mean = last.cast<double>().colwise().mean();
  return (mean / std::max(mean.norm(), 1e-12)).cast<float>();
}

Eigen::MatrixXf encoder::embed(const std::vector<std::string>& texts) const {
  Eigen::MatrixXf embeddings(static_cast<Eigen::Index>(texts.size()), shape_.width);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    try {
      embeddings.row(static_cast<Eigen::Index>(i)) = embed(texts[i]);
    } catch (const std::runtime_error& error) {
      fail("text ", i + 1, ": ", error.what());
    }
  }
  return embeddings;
}

trace encoder::run(const std::vector<int>& ids) const {
  trace seen;
  forward(ids, &seen);
  return seen;
}

activations encoder::forward(const std::vector<int>& ids, trace* seen) const {
  activations x = after_embedding_(embed_ids(ids));
  if (seen) seen->hidden.push_back(x);
  for (const layer& weights : layers_) {
    const activations y = weights.after_attention(x + weights.merge(attend(weights, x, seen)));
    x = weights.after_all(y + weights.narrow(gelu(weights.widen(y))));
    if (seen) seen->hidden.push_back(x);
  }
  return x;
}

activations encoder::embed_ids(const std::vector<int>& ids) const {
  const auto n = static_cast<Eigen::Index>(ids.size());
  if (n < 1 || n > position_.rows()) {
    fail("the text has ", n, " tokens, the model takes 1 to ", position_.rows());
  }
  activations x = position_.topRows(n).rowwise() + token_type_.row(0);
  for (Eigen::Index i = 0; i < n; ++i) {
    const int id = ids[static_cast<std::size_t>(i)];
    if (id < 0 || id >= word_.rows()) {
      fail("token ", i, " has id ", id, ", the vocabulary has ", word_.rows(), " pieces");
    }
    x.row(i) += word_.row(id);
  }
  return x;
}

// Head h sees columns [h · d, (h + 1) · d) of queries, keys and values, in place.
activations encoder::attend(const layer& weights, const activations& x, trace* seen) const {
  const activations q = weights.query(x), k = weights.key(x), v = weights.value(x);
  const Eigen::Index d = shape_.width / shape_.heads;
  activations out(x.rows(), x.cols());
  if (seen) seen->weights.emplace_back(shape_.heads);
  for (int h = 0; h < shape_.heads; ++h) {
    const auto head = [&](const activations& all) { return all.middleCols(h * d, d); };
    attn::options options;
    if (seen) options.weights = seen->weights.back()[static_cast<std::size_t>(h)];
    out.middleCols(h * d, d) =
        attn::scaled_dot_product_attention(head(q), head(k), head(v), options);
  }
  return out;
}

encoder::layer encoder::load_layer(int number) {
  const int width = shape_.width, inner = shape_.inner_width;
  const std::string name = "encoder.layer." + std::to_string(number) + ".";
  const std::string attention = name + "attention.";
  return {load_linear(attention + "self.query", width, width),
          load_linear(attention + "self.key", width, width),
          load_linear(attention + "self.value", width, width),
          load_linear(attention + "output.dense", width, width),
          load_layer_norm(attention + "output.LayerNorm"),
          load_linear(name + "intermediate.dense", inner, width),
          load_linear(name + "output.dense", width, inner),
          load_layer_norm(name + "output.LayerNorm")};
}

linear encoder::load_linear(const std::string& name, int outputs, int inputs) {
  return {load_matrix(name + ".weight", outputs, inputs), load_row(name + ".bias", outputs)};
}

layer_norm encoder::load_layer_norm(const std::string& name) {
  return {load_row(name + ".weight", shape_.width), load_row(name + ".bias", shape_.width)};
}

matrix_map encoder::load_matrix(const std::string& name, std::int64_t rows, std::int64_t cols) {
  const auto values =
      file_.floats(name, {static_cast<std::uint64_t>(rows), static_cast<std::uint64_t>(cols)});
  return {values.data(), rows, cols};
}

row_map encoder::load_row(const std::string& name, std::int64_t size) {
  return {file_.floats(name, {static_cast<std::uint64_t>(size)}).data(), size};
}

}  // namespace minilm
