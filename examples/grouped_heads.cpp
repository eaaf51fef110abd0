// Grouped-query attention: 8 heads of query share 2 of key and value, which then take a quarter of
// the memory. All are read where a projection leaves them, side by side in the rows of one matrix.
#include <algorithm>
#include <attn/attn.hpp>
#include <chrono>
#include <cstdio>
#include <vector>

namespace {

using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using heads = attn::heads_array<float>;

constexpr attn::index batch = 2, length = 100, query_heads = 8, key_heads = 2, width = 32;
constexpr attn::index group = query_heads / key_heads;

// What one would do without: key head h / group written out again for each head h of the query.
heads repeated(const attn::heads_view<const float>& few) {
  heads all({batch, query_heads, length, width});
  for (attn::index b = 0; b < batch; ++b) {
    for (attn::index h = 0; h < query_heads; ++h) all.head(b, h) = few.head(b, h / group);
  }
  return all;
}

float largest_difference(const attn::heads_view<const float>& x, const heads& y) {
  float largest = 0;
  for (attn::index b = 0; b < x.batch(); ++b) {
    for (attn::index h = 0; h < x.heads(); ++h) {
      largest = std::max(largest, (x.head(b, h) - y.head(b, h)).cwiseAbs().maxCoeff());
    }
  }
  return largest;
}

heads random_tokens(attn::index of_heads, attn::index tokens) {
  heads x({1, of_heads, tokens, 64});
  Eigen::Map<Eigen::VectorXf>(x.data(), x.shape().size()).setRandom();
  return x;
}

// How much is kept for 8,192 tokens of 8 query heads, and how long one more query takes.
void print_cost(attn::index of_heads) {
  attn::contiguous_cache<float> cache({.capacity = 8192, .heads = of_heads, .key_width = 64});
  cache.append(random_tokens(of_heads, 8192), random_tokens(of_heads, 8192));
  const heads query = random_tokens(query_heads, 1);
  double best = 1e9;
  for (int run = 0; run < 10; ++run) {
    const auto start = std::chrono::steady_clock::now();
    attn::scaled_dot_product_attention(query, cache);
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
    best = std::min(best, took.count());
  }
  std::printf("%9td %10.1f MB %10.2f ms\n", of_heads, double(cache.bytes()) / 1e6, best);
}

}  // namespace

int main() {
  // [batch, length, 8 heads of query, 2 of key, 2 of value], all of one width.
  const matrix x = matrix::Random(batch * length, 64);
  const matrix projection = matrix::Random(64, (query_heads + 2 * key_heads) * width) / 4;
  const matrix joint = x * projection;
  const auto [q, k, v] = attn::split_qkv(joint, query_heads, key_heads, batch);
  matrix out(batch * length, query_heads * width);  // as the next projection wants it
  const auto out_heads = attn::split_heads(out, query_heads, batch);
  attn::scaled_dot_product_attention_into(out_heads, q, k, v, attn::causal());
  std::printf("query %s, key %s: heads 0-3 use key head 0, heads 4-7 key head 1\n",
              to_text(q.shape()).c_str(), to_text(k.shape()).c_str());

  const heads same =
      attn::scaled_dot_product_attention(q, repeated(k), repeated(v), attn::causal());
  std::printf("largest difference from keys and values repeated for each head: %.0e\n\n",
              double(largest_difference(out_heads, same)));

  std::printf("key heads    K and V     a new token, of 8,192\n");
  for (const attn::index of_heads : {8, 2, 1}) print_cost(of_heads);

  // What differs from head to head goes into the same call: ALiBi's slopes, and sinks, logits that
  // take weight from the keys.
  const std::vector<double> slopes = attn::alibi_slopes(query_heads);
  const std::vector<float> sinks{0, 1, 2, 3, 0, 1, 2, 3};
  heads weights;
  attn::scaled_dot_product_attention(q, k, v, attn::causal(), attn::alibi(slopes),
                                     {.sink = sinks, .weights = weights});
  std::printf("\nhead   key head    slope   looks back   sink   keeps\n");
  const Eigen::RowVectorXf back = Eigen::RowVectorXf::LinSpaced(length, length - 1, 0);
  for (attn::index h = 0; h < query_heads; ++h) {
    const Eigen::RowVectorXf last = weights.head(0, h).row(length - 1);
    const auto at = static_cast<std::size_t>(h);
    std::printf("%4td %10td %8.4f %5.1f tokens %6.0f %6.0f%%\n", h, h / group, slopes[at],
                double(back.dot(last) / last.sum()), double(sinks[at]),
                100 * double(1 - last.sum()));
  }
}
