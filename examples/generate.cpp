// A small transformer writes text through each of the caches of keys and values. They save work and
// change nothing: the same is written when all is computed anew for every token. The weights are
// random, and so is the text.
#include <attn/attn.hpp>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace {

using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr attn::index width = 64, heads = 8, key_heads = 2, head_width = width / heads;
constexpr attn::index length = 240, longest = 1024, window = 32;
constexpr std::size_t layers = 3;

// A token is a syllable; the upper half of them end a word.
constexpr std::string_view consonants = "bdfghjklmnprstvz", vowels = "aeiou";
constexpr int syllables = 16 * 5, vocabulary = 2 * syllables;
const std::vector prompt{88, 136, 122, 90, 143, 120, 147};

std::string text_of(std::span<const int> tokens) {
  std::string text;
  for (const int token : tokens) {
    const auto n = static_cast<std::size_t>(token % syllables);
    text += {consonants[n / 5], vowels[n % 5]};
    if (token >= syllables) text += ' ';
  }
  return text;
}

struct layer {
  matrix joint, output, up, down;
};
struct model {
  matrix embedding;
  std::vector<layer> layers;
};

model random_model() {
  std::mt19937 generator(2);
  const auto weights = [&](attn::index rows, attn::index cols) {
    std::normal_distribution<float> of(0, 1 / std::sqrt(float(rows)));
    return matrix(matrix::NullaryExpr(rows, cols, [&] { return of(generator); }));
  };
  model m{weights(vocabulary, width), {}};
  for (std::size_t l = 0; l < layers; ++l) {
    m.layers.push_back({2 * weights(width, (heads + 2 * key_heads) * head_width),
                        weights(width, width), weights(width, 4 * width),
                        weights(4 * width, width)});
  }
  return m;
}

// A row at a time: Eigen sums a product of many rows in another order.
matrix linear(const matrix& x, const matrix& weights) {
  matrix y(x.rows(), weights.cols());
  for (attn::index i = 0; i < x.rows(); ++i) y.row(i).noalias() = x.row(i) * weights;
  return y;
}

matrix normalised(const matrix& x) {
  return x.array().colwise() / (x.array().square().rowwise().mean() + 1e-6f).sqrt();
}

// What may follow the tokens, the first of which has position `first`. `attend` is told the layer,
// query, key and value of the tokens, and where its result goes.
template <class Attend>
Eigen::RowVectorXf logits(const model& m, std::span<const int> tokens, attn::index first,
                          const Attend& attend) {
  const attn::rotary_embedding rotary;
  matrix x(std::ssize(tokens), width);
  for (attn::index i = 0; i < x.rows(); ++i) {
    x.row(i) = m.embedding.row(tokens[static_cast<std::size_t>(i)]);
  }
  for (std::size_t l = 0; l < layers; ++l) {
    matrix joint = linear(normalised(x), m.layers[l].joint), mixed(x.rows(), width);
    const auto parts = attn::split_qkv(joint, heads, key_heads);
    rotary(parts.query, {.offset = first});
    rotary(parts.key, {.offset = first});
    attend(l, parts, attn::split_heads(mixed, heads));
    x += linear(mixed, m.layers[l].output);
    x += linear(linear(normalised(x), m.layers[l].up).cwiseMax(0), m.layers[l].down);
  }
  return linear(normalised(x.bottomRows(1)), m.embedding.transpose());
}

struct writing {
  std::vector<int> tokens = prompt;
  std::vector<float> logits;  // of each token written
  friend bool operator==(const writing&, const writing&) = default;
};

// Writes the likeliest token, again and again. Each is computed once, or `anew` with every other.
template <class Attend>
writing write(const model& m, const char* name, bool anew, const Attend& attend) {
  writing text;
  double speed = 0;
  const auto start = std::chrono::steady_clock::now();
  for (std::size_t known = 0, shown = 0; std::ssize(text.tokens) < length;) {
    const auto rest = std::span(text.tokens).subspan(known);
    const auto next = logits(m, rest, attn::index(known), attend);
    if (!anew) known = text.tokens.size();
    int likeliest = 0;
    text.logits.push_back(next.maxCoeff(&likeliest));
    text.tokens.push_back(likeliest);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    speed = double(text.logits.size()) / took.count();
    if (took.count() < 0.1 * double(shown)) continue;
    std::fprintf(stderr, "\r%6zu tokens, %.0f a second ", text.tokens.size(), speed);
    ++shown;
  }
  std::fprintf(stderr, "\r%40s\r", "");
  std::printf("  %-18s %8.0f tokens/s", name, speed);
  return text;
}

// All of the text is computed anew and sees itself.
template <class M>
writing write_anew(const model& m, const M& mask) {
  const auto attend = [&](std::size_t, const auto& tokens, const auto& out) {
    attn::scaled_dot_product_attention_into(out, tokens.query, tokens.key, tokens.value, mask,
                                            {.reproducible = true});
  };
  writing text = write(m, "all computed anew", true, attend);
  std::printf("\n");
  return text;
}

// New tokens are appended to the layer's cache and see what it then holds.
template <class Caches, class M>
void write_through(const model& m, const char* name, Caches caches, const M& mask,
                   const writing& anew) {
  const auto attend = [&](std::size_t l, const auto& tokens, const auto& out) {
    caches[l].append(tokens.key, tokens.value);
    // A few queries and many keys are otherwise summed in an order of their own, which is faster:
    // as right, but not the same to the last bit.
    attn::scaled_dot_product_attention_into(
        out, tokens.query, caches[l], mask,
        {.alignment = attn::bottom_right, .reproducible = true});
  };
  const bool identical = write(m, name, false, attend) == anew;
  double bytes = 0;
  for (const auto& cache : caches) bytes += double(cache.bytes());
  std::printf("%6.0f KB   identical: %s\n", bytes / 1e3, identical ? "yes" : "no");
}

}  // namespace

int main() {
  const model m = random_model();
  std::printf("the prompt: \"%s\"\n\nEvery token sees all before it:\n", text_of(prompt).c_str());
  const attn::kv_cache_shape shape{
      .capacity = longest, .heads = key_heads, .key_width = head_width};
  const attn::page_pool_shape pages{.heads = key_heads, .key_width = head_width, .pages = 100};
  const auto pool = std::make_shared<attn::page_pool<float>>(pages);
  std::vector<attn::paged_cache<float>> paged;
  for (std::size_t l = 0; l < layers; ++l) paged.emplace_back(pool, 1);

  const attn::causal all;
  const writing anew = write_anew(m, all);
  write_through(m, "contiguous cache", std::vector(layers, attn::contiguous_cache<float>(shape)),
                all, anew);
  write_through(m, "paged cache", std::move(paged), all, anew);
  std::printf("  \"%s...\"\n", text_of(std::span(anew.tokens).first(40)).c_str());

  std::printf("\nEvery token sees the %td latest, itself included:\n", window);
  // Of the prompt, which comes at once, even the first token's window must still be there.
  const attn::kv_cache_shape ring{
      .capacity = window + std::ssize(prompt) - 1, .heads = key_heads, .key_width = head_width};
  const attn::sliding_window latest(window - 1, 0);
  const writing windowed = write_anew(m, latest);
  write_through(m, "ring cache", std::vector(layers, attn::ring_cache<float>(ring, window)), latest,
                windowed);
  std::printf("  \"%s...\"\n", text_of(std::span(windowed.tokens).first(40)).c_str());
}
