// Which bias would hold where only the other mask lets a key through?
#include <attn/attn.hpp>

Eigen::MatrixXf call(const Eigen::MatrixXf& x, const Eigen::MatrixXf& bias) {
#ifdef REFUSED
  return attn::scaled_dot_product_attention(x, x, x, attn::causal() | bias);
#else
  return attn::scaled_dot_product_attention(x, x, x, attn::causal() & bias);
#endif
}
