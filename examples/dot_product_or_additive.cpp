// Why dot products won over Bahdanau's additive attention: the same picture of who attends to whom,
// for a tanh less at every query, key and feature.
#include <algorithm>
#include <attn/additive_attention.hpp>
#include <attn/attn.hpp>
#include <chrono>
#include <cstdio>

namespace {

// The shortest of a few runs, in milliseconds.
template <class F>
double milliseconds(const F& run) {
  double best = 1e9;
  for (int i = 0; i < 5; ++i) {
    const auto start = std::chrono::steady_clock::now();
    run();
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
    best = std::min(best, took.count());
  }
  return best;
}

}  // namespace

int main() {
  std::printf(
      "            score of a query q and a key k      a pair costs               learns\n"
      "dot product q . k / sqrt(d)                     d multiply-adds            nothing\n"
      "additive    w . tanh(q W_q + k W_k)             d adds, d tanh,            W_q, W_k, w\n"
      "                                                d multiply-adds\n\n");

  std::printf("                  dot product            additive\n");
  std::printf("     L     d     Mflop      ms   Mflop   Mtanh      ms   times slower   tensor*\n");
  for (const auto& [length, d] : {std::pair{64, 64}, {256, 64}, {256, 256}, {512, 64}}) {
    const Eigen::MatrixXf x = Eigen::MatrixXf::Random(length, d);
    const attn::additive_attention<float> additive({.width = d});
    const double dot_ms = milliseconds([&] { attn::score(x, x); });
    const double additive_ms = milliseconds([&] { additive.score(x, x); });
    const double pairs = double(length) * length, million = 1e6;
    // W_q and W_k are applied once a token; a dot product needs no weights of its own.
    const double projections = 4.0 * length * d * d;
    std::printf("%6d %5d  %8.1f %7.2f %7.1f %7.1f %7.2f   %12.0f   %4.0f MB\n", length, d,
                2 * pairs * d / million, dot_ms, (3 * pairs * d + projections) / million,
                pairs * d / million, additive_ms, additive_ms / dot_ms, 4 * pairs * d / million);
  }
  std::printf(
      "\n* of L x L x d, where one writes it with whole tensors; attn keeps one pair's at a time.\n"
      "A dot product of all pairs is one matrix product, the thing that machines do best.\n"
      "Additive attention learnt better at large d, until dot products were divided by sqrt(d).\n");
}
