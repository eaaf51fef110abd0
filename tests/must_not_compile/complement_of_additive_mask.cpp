// What would the opposite of adding a number be?
#include <attn/attn.hpp>

Eigen::MatrixXf call(const Eigen::MatrixXf& x, const Eigen::MatrixXf& bias) {
#ifdef REFUSED
  return attn::scaled_dot_product_attention(x, x, x, ~attn::as_mask(bias));
#else
  return attn::scaled_dot_product_attention(x, x, x, ~attn::as_mask(bias.array() < 0));
#endif
}
