// Sums of gradients in 16 bits would be of no use.
#include <attn/attn.hpp>

using half = Eigen::Matrix<Eigen::half, Eigen::Dynamic, Eigen::Dynamic>;

void call(const half& x, const Eigen::VectorXf& lse, Eigen::MatrixXf& to) {
  const Eigen::MatrixXf wide = x.cast<float>();
  const attn::forward_pass from{.log_sum_exp = lse, .out = wide, .out_gradient = wide};
#ifdef REFUSED
  attn::scaled_dot_product_attention_backward({.query = to}, from, x, x, x);
#endif
  attn::scaled_dot_product_attention_backward({.query = to}, from, wide, wide, wide);
}
