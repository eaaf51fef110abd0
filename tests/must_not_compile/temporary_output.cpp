// ... and that is still there after the call.
#include <attn/attn.hpp>

Eigen::MatrixXf call(const Eigen::MatrixXf& x) {
#ifdef REFUSED
  const attn::options options{.weights = Eigen::MatrixXf()};
#else
  Eigen::MatrixXf weights;
  const attn::options options{.weights = weights};
#endif
  return attn::scaled_dot_product_attention(x, x, x, options);
}
