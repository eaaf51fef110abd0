// A mask that changes as it is asked would depend on the order and the thread.
#include <attn/attn.hpp>

Eigen::MatrixXf call(const Eigen::MatrixXf& x) {
  int asked = 0;
#ifdef REFUSED
  return attn::scaled_dot_product_attention(
      x, x, x, [asked](attn::index, attn::index) mutable { return ++asked < 3; });
#else
  return attn::scaled_dot_product_attention(
      x, x, x, [asked](attn::index, attn::index) { return asked < 3; });
#endif
}
