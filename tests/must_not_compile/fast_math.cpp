// Flags with which the compiler takes NaN and infinity for impossible.
#ifdef REFUSED
#define __FAST_MATH__ 1  // NOLINT(bugprone-reserved-identifier): what -ffast-math defines
#endif
#include <attn/attn.hpp>

Eigen::MatrixXf call(const Eigen::MatrixXf& x) {
  return attn::scaled_dot_product_attention(x, x, x);
}
