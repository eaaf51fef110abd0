// An output has to be something that can be written to.
#include <attn/attn.hpp>

Eigen::MatrixXf call(const Eigen::MatrixXf& x, const Eigen::MatrixXf& constant) {
  Eigen::MatrixXf weights = constant;
#ifdef REFUSED
  const attn::options options{.weights = constant};
#else
  const attn::options options{.weights = weights};
#endif
  return attn::scaled_dot_product_attention(x, x, x, options);
}
