// Sentences of different lengths in one call: packed one after the other, or padded to the longest.
// The results are the same; what is computed and kept in memory is not.
#include <algorithm>
#include <attn/attn.hpp>
#include <chrono>
#include <cstdio>
#include <vector>

namespace {

using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using result = attn::heads_array<float>;

constexpr attn::index heads = 4, width = 64;

// Runs a few times, prints what that costs, and returns what it computes.
template <class F>
result measured(const char* name, attn::index rows, attn::index pairs, const F& run) {
  result out;
  double best = 1e9;
  for (int i = 0; i < 10; ++i) {
    const auto start = std::chrono::steady_clock::now();
    out = run();
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
    best = std::min(best, took.count());
  }
  std::printf("%-34s %8td %9td %9.2f\n", name, rows, pairs, best);
  return out;
}

// Over the tokens that there are: sentence n starts at starts[n] of the packed ones.
float largest_difference(const result& packed, const std::vector<attn::index>& starts,
                         const result& padded) {
  float largest = 0;
  for (attn::index n = 0; n < padded.shape().batch; ++n) {
    const attn::index start = starts[std::size_t(n)], length = starts[std::size_t(n) + 1] - start;
    for (attn::index h = 0; h < heads; ++h) {
      const auto difference =
          packed.head(0, h).middleRows(start, length) - padded.head(n, h).topRows(length);
      largest = std::max(largest, difference.cwiseAbs().maxCoeff());
    }
  }
  return largest;
}

}  // namespace

int main() {
  const std::vector<attn::index> lengths{12, 340, 57, 9, 128, 23, 201, 76};
  const attn::index batch = std::ssize(lengths), longest = *std::ranges::max_element(lengths);
  std::vector<attn::index> starts{0};
  attn::index square = 0;  // pairs of a query and a key of the same sentence
  for (const attn::index length : lengths) {
    starts.push_back(starts.back() + length);
    square += length * length;
  }
  std::printf("%td sentences of", batch);
  for (const attn::index length : lengths) std::printf(" %td", length);
  std::printf(" tokens\npacked they start at");
  for (const attn::index start : starts) std::printf(" %td", start);

  // A row is a token's query, key and value.
  const matrix packed = matrix::Random(starts.back(), 3 * heads * width);
  matrix padded = matrix::Zero(batch * longest, packed.cols());
  for (std::size_t n = 0; n < lengths.size(); ++n) {
    padded.middleRows(attn::index(n) * longest, lengths[n]) =
        packed.middleRows(starts[n], lengths[n]);
  }
  const auto one = attn::split_qkv(packed, heads);                 // a single run of tokens
  const auto many = attn::split_qkv(padded, heads, heads, batch);  // batch x longest of them

  std::printf("\n\n%-34s %8s %9s %9s\n", "", "rows", "pairs", "ms");
  const result by_packing = measured("packed", packed.rows(), square, [&] {
    return attn::packed_attention(one.query, one.key, one.value, starts);
  });
  const result by_lengths = measured("padded, with their lengths", padded.rows(), square, [&] {
    return attn::scaled_dot_product_attention(many.query, many.key, many.value,
                                              {.key_lengths = lengths, .query_lengths = lengths});
  });
  // A mask hides keys, but nobody tells that the queries of the padding are of no use.
  const result by_mask =
      measured("padded, with a mask of keys", padded.rows(), longest * starts.back(), [&] {
        return attn::scaled_dot_product_attention(many.query, many.key, many.value,
                                                  attn::key_padding(lengths));
      });
  std::printf("\nlargest difference of packed from padded: %.0e with lengths, %.0e with a mask\n",
              double(largest_difference(by_packing, starts, by_lengths)),
              double(largest_difference(by_packing, starts, by_mask)));
}
