// An expression has no memory to view.
#include <attn/attn.hpp>

auto call(const Eigen::MatrixXf& x) {
#ifdef REFUSED
  return attn::scaled_dot_product_attention(attn::split_heads(2 * x, 2), attn::split_heads(x, 2),
                                            attn::split_heads(x, 2));
#else
  const Eigen::MatrixXf doubled = 2 * x;
  return attn::scaled_dot_product_attention(attn::split_heads(doubled, 2), attn::split_heads(x, 2),
                                            attn::split_heads(x, 2));
#endif
}
