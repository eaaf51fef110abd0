// Weights between 0 and 1 are no integers.
#include <attn/attn.hpp>

Eigen::MatrixXf call(const Eigen::MatrixXi& x) {
#ifdef REFUSED
  attn::scaled_dot_product_attention(x, x, x);
#endif
  const Eigen::MatrixXf y = x.cast<float>();
  return attn::scaled_dot_product_attention(y, y, y);
}
