// A mask of the user's own type answers two questions.
#include <attn/attn.hpp>

struct half_a_mask {
  bool visible(attn::position at) const { return at.key <= at.query; }
#ifndef REFUSED
  attn::coverage cover(attn::tile) const { return attn::coverage::some; }
#endif
};

Eigen::MatrixXf call(const Eigen::MatrixXf& x) {
  return attn::scaled_dot_product_attention(x, x, x, half_a_mask());
}
