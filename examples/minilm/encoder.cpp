#include "encoder.hpp"

#include <algorithm>
#include <attn/heads_attention.hpp>
#include <attn/varlen.hpp>
#include <chrono>

#include "error.hpp"

namespace minilm {
namespace {

architecture checked(const architecture& shape) {
  if (shape.heads < 1 || shape.width % shape.heads != 0) {
    fail("the width ", shape.width, " does not divide into ", shape.heads, " heads");
  }
  return shape;
}

class stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(clock::now() - start_).count(); }

 private:
  using clock = std::chrono::steady_clock;
  clock::time_point start_ = clock::now();
};

// Texts go together until they make enough tokens for the weights, once read, to be well used; more
// would leave the cache.
constexpr std::size_t enough_tokens = 512;

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

void encoder::packed_texts::add(const std::vector<int>& text) {
  ids.insert(ids.end(), text.begin(), text.end());
  starts.push_back(static_cast<std::int64_t>(ids.size()));
}

Eigen::VectorXf encoder::embed(std::string_view text, std::size_t max_tokens) const {
  packed_texts texts;
  texts.add(tokenize(text, max_tokens).ids);
  Eigen::MatrixXf embedding(1, shape_.width);
  embed(texts, embedding, 0);
  return embedding.row(0);
}

Eigen::MatrixXf encoder::embed(const std::vector<std::string>& texts) const {
  Eigen::MatrixXf embeddings(static_cast<Eigen::Index>(texts.size()), shape_.width);
  packed_texts together;
  std::size_t first = 0;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    try {
      together.add(tokenize(texts[i]).ids);
    } catch (const std::runtime_error& error) {
      fail("text ", i + 1, ": ", error.what());
    }
    if (together.ids.size() < enough_tokens && i + 1 < texts.size()) continue;
    embed(together, embeddings, static_cast<Eigen::Index>(first));
    together = {};
    first = i + 1;
  }
  return embeddings;
}

void encoder::embed(const packed_texts& texts, Eigen::MatrixXf& embeddings,
                    Eigen::Index first) const {
  const activations last = forward(texts, nullptr);
  for (std::size_t n = 0; n + 1 < texts.starts.size(); ++n, ++first) {
    const auto tokens = last.middleRows(texts.starts[n], texts.starts[n + 1] - texts.starts[n]);
    const Eigen::RowVectorXd mean = tokens.cast<double>().colwise().mean();
    embeddings.row(first) = (mean / std::max(mean.norm(), 1e-12)).cast<float>();
  }
}

trace encoder::run(const std::vector<int>& ids) const {
  trace seen;
  packed_texts text;
  text.add(ids);
  forward(text, &seen);
  return seen;
}

activations encoder::forward(const packed_texts& texts, trace* seen, seconds* taken) const {
  activations x = embed_ids(texts);
  after_embedding_(x);
  if (seen) seen->hidden.push_back(x);
  activations q, k, v, joined(x.rows(), x.cols()), y, wide;
  for (const layer& weights : layers_) {
    weights.query(x, q);
    weights.key(x, k);
    weights.value(x, v);
    const stopwatch watch;
    attend(q, k, v, joined, texts, seen);
    if (taken) taken->attention += watch.seconds();
    weights.merge(joined, y);
    y += x;
    weights.after_attention(y);
    weights.widen(y, wide);
    gelu(wide);
    weights.narrow(wide, x);
    x += y;
    weights.after_all(x);
    if (seen) seen->hidden.push_back(x);
  }
  return x;
}

seconds encoder::time(int texts, int tokens) const {
  const int word = tokenizer_.encode("tea", 3).ids[1];
  seconds taken;
  for (int first = 0; first < texts;) {
    packed_texts together;
    while (first < texts && together.ids.size() < enough_tokens) {
      together.add(std::vector<int>(static_cast<std::size_t>(tokens), word));
      ++first;
    }
    const stopwatch watch;
    forward(together, nullptr, &taken);
    taken.all += watch.seconds();
  }
  return taken;
}

activations encoder::embed_ids(const packed_texts& texts) const {
  activations x(static_cast<Eigen::Index>(texts.ids.size()), shape_.width);
  for (std::size_t n = 0; n + 1 < texts.starts.size(); ++n) {
    const Eigen::Index start = texts.starts[n], tokens = texts.starts[n + 1] - start;
    if (tokens < 1 || tokens > position_.rows()) {
      fail("the text has ", tokens, " tokens, the model takes 1 to ", position_.rows());
    }
    for (Eigen::Index i = 0; i < tokens; ++i) {
      const int id = texts.ids[static_cast<std::size_t>(start + i)];
      if (id < 0 || id >= word_.rows()) {
        fail("token ", i, " has id ", id, ", the vocabulary has ", word_.rows(), " pieces");
      }
      x.row(start + i) = position_.row(i) + token_type_.row(0) + word_.row(id);
    }
  }
  return x;
}

// Head h sees columns [h · d, (h + 1) · d) of queries, keys and values, in place, and each text
// only itself.
void encoder::attend(const activations& q, const activations& k, const activations& v,
                     activations& out, const packed_texts& texts, trace* seen) const {
  const auto heads = [&](auto& all) { return attn::split_heads(all, shape_.heads); };
  if (!seen) {
    return attn::packed_attention_into(heads(out), heads(q), heads(k), heads(v), texts.starts);
  }
  attn::heads_array<float> shares;
  attn::scaled_dot_product_attention_into(heads(out), heads(q), heads(k), heads(v),
                                          {.weights = shares});
  seen->weights.emplace_back();
  for (int h = 0; h < shape_.heads; ++h) seen->weights.back().emplace_back(shares.head(0, h));
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
