// 0.1 is a double, so s * 0.1 is one: the scores would silently lose half of it.
#include <attn/attn.hpp>

Eigen::MatrixXf call(const Eigen::MatrixXf& x) {
#ifdef REFUSED
  const auto change = [](float s, attn::position) { return s * 0.1; };
#else
  const auto change = [](float s, attn::position) { return s * 0.1f; };
#endif
  return attn::scaled_dot_product_attention(x, x, x, attn::none(), change);
}
