// Either all are heads or all are matrices, on the way back, packed and with tangents as well.
#include <attn/attn.hpp>

auto call(const attn::heads_array<float>& query, const Eigen::MatrixXf& key,
          const Eigen::Matrix<float, 6, 4>& packed_key, const Eigen::Matrix<float, 6, 8>& other_key,
          attn::heads_array<float>& gradient) {
#ifdef REFUSED
  const auto heads = [](const auto& matrix) { return matrix; };
#else
  const auto heads = [](const auto& matrix) { return attn::split_heads(matrix, 2); };
#endif
  const auto a = heads(key);
  const auto b = heads(packed_key);
  const auto c = heads(other_key);
  attn::scaled_dot_product_attention_backward({.query = gradient}, {}, query, a, a);
  attn::packed_attention_backward({.query = gradient}, {}, query, b, b, {0, 1}, attn::none());
  return attn::scaled_dot_product_attention_jvp({}, query, c, c);
}
