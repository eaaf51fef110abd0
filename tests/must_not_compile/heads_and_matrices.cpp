// Either all are heads or all are matrices.
#include <attn/attn.hpp>

auto call(const attn::heads_array<float>& query, const Eigen::MatrixXf& key) {
#ifdef REFUSED
  return attn::scaled_dot_product_attention(query, key, key, attn::causal(),
                                            {.alignment = attn::bottom_right});
#else
  const auto heads = attn::split_heads(key, 2);
  return attn::scaled_dot_product_attention(query, heads, heads, attn::causal(),
                                            {.alignment = attn::bottom_right});
#endif
}
