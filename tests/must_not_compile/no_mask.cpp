// A number is not a mask.
#include <attn/attn.hpp>

Eigen::MatrixXf call(const Eigen::MatrixXf& x) {
#ifdef REFUSED
  return attn::scaled_dot_product_attention(x, x, x, 0.5);
#else
  return attn::scaled_dot_product_attention(x, x, x, {.scale = 0.5});
#endif
}
