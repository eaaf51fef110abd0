// Complex scores have no largest one.
#include <attn/attn.hpp>

Eigen::MatrixXf call(const Eigen::MatrixXcf& x) {
#ifdef REFUSED
  attn::scaled_dot_product_attention(x, x, x);
#endif
  const Eigen::MatrixXf y = x.real();
  return attn::scaled_dot_product_attention(y, y, y);
}
