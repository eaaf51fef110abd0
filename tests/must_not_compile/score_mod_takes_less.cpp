// Scores of double would be cut to float on their way in.
#include <attn/attn.hpp>

Eigen::MatrixXd call(const Eigen::MatrixXd& x) {
#ifdef REFUSED
  const auto change = [](float s, attn::position) { return s; };
#else
  const auto change = [](auto s, attn::position) { return s; };
#endif
  return attn::scaled_dot_product_attention(x, x, x, attn::none(), change);
}
