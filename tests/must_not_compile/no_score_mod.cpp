// A score change takes the score first.
#include <attn/attn.hpp>

Eigen::MatrixXf call(const Eigen::MatrixXf& x) {
#ifdef REFUSED
  const auto change = [](attn::position, float s) { return s; };
#else
  const auto change = [](float s, attn::position) { return s; };
#endif
  return attn::scaled_dot_product_attention(x, x, x, attn::none(), change);
}
