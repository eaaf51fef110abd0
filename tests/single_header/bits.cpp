// Prints the bits of one call of everything that has formulas, through <attn/attn.hpp> wherever
// that comes from. The single header has the ONNX operator in it, which is a header of its own
// otherwise.
#include <attn/attn.hpp>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>
#ifndef ATTN_TEST_SINGLE_HEADER
#include <attn/onnx_attention.hpp>
#endif

namespace {

template <class T>
using matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

template <class T>
matrix<T> random_matrix(Eigen::Index rows, Eigen::Index columns, unsigned seed) {
  std::minstd_rand draw(seed);
  return matrix<T>::NullaryExpr(
      rows, columns, [&] { return static_cast<T>(static_cast<int>(draw() % 2001) - 1000) / 500; });
}

template <class Derived>
void print(const char* name, const Eigen::DenseBase<Derived>& all) {
  using scalar = typename Derived::Scalar;
  using bits = std::conditional_t<sizeof(scalar) == 4, std::uint32_t, std::uint64_t>;
  std::printf("%s %s\n", name, sizeof(scalar) == 4 ? "float" : "double");
  for (Eigen::Index i = 0; i < all.rows(); ++i) {
    for (Eigen::Index j = 0; j < all.cols(); ++j) {
      std::printf("%llx ", static_cast<unsigned long long>(std::bit_cast<bits>(all(i, j))));
    }
  }
  std::printf("\n");
}

template <class T>
void one_head() {
  const matrix<T> q = random_matrix<T>(21, 16, 1), k = random_matrix<T>(150, 16, 2);
  const matrix<T> v = random_matrix<T>(150, 9, 3), bias = random_matrix<T>(21, 150, 4);
  const auto mask = attn::sliding_window(70, 0) & attn::prefix(140);
  Eigen::Vector<T, Eigen::Dynamic> log_sum_exp;
  matrix<T> weights;
  const attn::options options{.alignment = attn::bottom_right,
                              .dropout = {.probability = 0.2, .seed = 7}};
  attn::options forward = options;
  forward.log_sum_exp = log_sum_exp;
  const matrix<T> out =
      attn::scaled_dot_product_attention(q, k, v, mask, attn::softcap(3), forward);
  print("forward", out);
  print("log_sum_exp", log_sum_exp);
  print("biased", attn::scaled_dot_product_attention(q, k, v, bias, {.weights = weights}));
  print("weights", weights);
  print("decode", attn::scaled_dot_product_attention(q.topRows(2).eval(), k, v));
  print("stages", attn::weighted_sum(attn::softmax(attn::score(q, k)), v));

  matrix<T> dq, dk, dv;
  attn::scaled_dot_product_attention_backward(
      {.key = dk, .query = dq, .value = dv},
      {.log_sum_exp = log_sum_exp, .out = out, .out_gradient = out}, q, k, v, mask,
      attn::softcap(3), options);
  print("dq", dq);
  print("dk", dk);
  print("dv", dv);
  const auto moved = attn::scaled_dot_product_attention_jvp({.query = q}, q, k, v, mask,
                                                            attn::softcap(3), options);
  print("tangent", moved.out_tangent);
}

template <class T>
void many_heads() {
  matrix<T> q = random_matrix<T>(40, 16, 1);
  const matrix<T> k = random_matrix<T>(40, 8, 2);
  attn::rotary_embedding({.base = 10000})(attn::split_heads(q, 4));
  print("rotary", q);
  matrix<T> out(40, 16);
  attn::scaled_dot_product_attention_into(attn::split_heads(out, 4), attn::split_heads(q, 4),
                                          attn::split_heads(k, 2), attn::split_heads(k, 2),
                                          attn::causal(), attn::alibi(attn::alibi_slopes(4)));
  print("heads", out);

  attn::contiguous_cache<T> cache({.capacity = 40, .heads = 2, .key_width = 4});
  cache.append(attn::split_heads(k, 2), attn::split_heads(k, 2));
  matrix<T> last(1, 16), last_query = q.bottomRows(1);
  attn::scaled_dot_product_attention_into(attn::split_heads(last, 4),
                                          attn::split_heads(last_query, 4), cache, attn::causal(),
                                          {.alignment = attn::bottom_right});
  print("cache", last);
  print("onnx", attn::onnx_attention(attn::split_heads(q, 4), attn::split_heads(k, 2),
                                     attn::split_heads(k, 2), {.is_causal = true, .softcap = 3})
                    .y.head(0, 3));
  const attn::multi_head_attention<T> layer({.heads = 2, .width = 16});
  print("layer", layer(q, q, q, attn::causal()));
}

}  // namespace

int main() {
  one_head<float>();
  one_head<double>();
  many_heads<float>();
  many_heads<double>();
}
