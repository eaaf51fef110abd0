// Flags with which the compiler sums in whatever order.
#ifdef REFUSED
#define __ASSOCIATIVE_MATH__ 1  // NOLINT(bugprone-reserved-identifier): what g++ defines
#endif
#include <attn/attn.hpp>

Eigen::MatrixXf call(const Eigen::MatrixXf& x) {
  return attn::scaled_dot_product_attention(x, x, x);
}
