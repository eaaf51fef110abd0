// A long prompt that a batch of sequences has in common: kept once and read by all of them, by
// sharing a cache's pages; or attended to once for all, and merged with what each has of its own.
#include <algorithm>
#include <attn/attn.hpp>
#include <chrono>
#include <cstdio>
#include <memory>

namespace {

using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using heads = attn::heads_array<float>;

constexpr attn::index batch = 8, query_heads = 8, key_heads = 2, width = 64, page_size = 16;
constexpr attn::index prompt = 4000, own_length = 20;  // tokens

struct tokens {
  heads key, value;
};

tokens random_tokens(attn::index sequences, attn::index length) {
  tokens t{heads({sequences, key_heads, length, width}),
           heads({sequences, key_heads, length, width})};
  for (heads* each : {&t.key, &t.value}) {
    Eigen::Map<Eigen::VectorXf>(each->data(), each->shape().size()).setRandom();
  }
  return t;
}

// A query matrix is [batch, latest tokens, heads * width].
auto by_sequence(auto& x) { return attn::split_heads(x, query_heads, batch); }
auto as_one_sequence(auto& x) { return attn::split_heads(x, query_heads); }

matrix from_cache(const matrix& query, const attn::paged_cache<float>& cache) {
  matrix out(query.rows(), query.cols());
  attn::scaled_dot_product_attention_into(by_sequence(out), by_sequence(query), cache,
                                          attn::causal(), {.alignment = attn::bottom_right});
  return out;
}

matrix merged(const matrix& query, const tokens& shared, const tokens& own) {
  // The prompt is before all queries: they see all of it, as if they were those of one sequence.
  matrix out(query.rows(), query.cols()), log_sum_exp(query.rows(), query_heads);
  attn::scaled_dot_product_attention_into(as_one_sequence(out), as_one_sequence(query), shared.key,
                                          shared.value,
                                          {.log_sum_exp = as_one_sequence(log_sum_exp)});
  // Its own tokens each sequence attends to by itself.
  heads own_log_sum_exp;
  const heads own_out = attn::scaled_dot_product_attention(
      by_sequence(query), own.key, own.value, attn::causal(),
      {.alignment = attn::bottom_right, .log_sum_exp = own_log_sum_exp});
  attn::merge_into(by_sequence(out), by_sequence(log_sum_exp), own_out, own_log_sum_exp);
  return out;
}

// The shortest of a few runs, of which the result is kept.
template <class F>
double milliseconds(matrix& result, const F& run) {
  double best = 1e9;
  for (int i = 0; i < 10; ++i) {
    const auto start = std::chrono::steady_clock::now();
    result = run();
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
    best = std::min(best, took.count());
  }
  return best;
}

attn::index pages_in_use(const attn::paged_cache<float>& cache) {
  return cache.pool()->pages() - cache.pool()->free_pages();
}

}  // namespace

int main() {
  const tokens shared = random_tokens(1, prompt), own = random_tokens(batch, own_length);
  const attn::page_pool_shape shape{
      .heads = key_heads, .key_width = width, .page_size = page_size, .pages = 2100};

  // Every sequence has the prompt to itself.
  attn::paged_cache<float> apart(std::make_shared<attn::page_pool<float>>(shape), batch);
  for (attn::index b = 0; b < batch; ++b) apart.append(b, shared.key, shared.value);
  apart.append(own.key, own.value);

  // The first has it, the others refer to its pages.
  attn::paged_cache<float> forked(std::make_shared<attn::page_pool<float>>(shape), batch);
  forked.append(0, shared.key, shared.value);
  for (attn::index b = 1; b < batch; ++b) forked.fork(0, b);
  forked.append(own.key, own.value);

  std::printf("%td sequences with a prompt of %td tokens in common and %td of their own each\n\n",
              batch, prompt, own_length);
  std::printf("pages of %td tokens in use: %td, without sharing %td\n", page_size,
              pages_in_use(forked), pages_in_use(apart));
  std::printf("keys and values: %.1f MB, without sharing %.1f MB\n\n", double(forked.bytes()) / 1e6,
              double(apart.bytes()) / 1e6);

  std::printf("queries   without sharing   shared pages   differ     merged   differ\n");
  for (const attn::index latest : {own_length, attn::index{1}}) {
    const matrix query = 8 * matrix::Random(batch * latest, query_heads * width);
    matrix expected, out;
    const double apart_ms = milliseconds(expected, [&] { return from_cache(query, apart); });
    std::printf("%td x %-3td %14.2f ms", batch, latest, apart_ms);
    const auto print = [&](double ms) {
      std::printf("%12.2f ms %8.0e", ms, double((out - expected).cwiseAbs().maxCoeff()));
    };
    print(milliseconds(out, [&] { return from_cache(query, forked); }));
    print(milliseconds(out, [&] { return merged(query, shared, own); }));
    std::printf("\n");
  }
}
