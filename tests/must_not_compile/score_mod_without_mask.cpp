// A score change comes after a mask, or it would be taken for one.
#include <attn/attn.hpp>

Eigen::MatrixXf call(const Eigen::MatrixXf& x) {
  const auto twice = [](float s, attn::position) { return 2 * s; };
#ifdef REFUSED
  return attn::scaled_dot_product_attention(x, x, x, twice);
#else
  return attn::scaled_dot_product_attention(x, x, x, attn::none(), twice);
#endif
}
