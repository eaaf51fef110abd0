// A mask of integers could mean "may attend" or "add to the score": the caller has to say which.
#include <attn/attn.hpp>

Eigen::MatrixXf call(const Eigen::MatrixXf& x, const Eigen::MatrixXi& mask) {
#ifdef REFUSED
  return attn::scaled_dot_product_attention(x, x, x, mask);
#else
  return attn::scaled_dot_product_attention(x, x, x, mask.array() != 0);
#endif
}
