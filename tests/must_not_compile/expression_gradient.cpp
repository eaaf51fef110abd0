// A backward pass reads memory: an expression has none.
#include <attn/attn.hpp>

void call(const Eigen::MatrixXf& x, const Eigen::MatrixXf& out, const Eigen::VectorXf& lse,
          Eigen::MatrixXf& to) {
#ifdef REFUSED
  const auto out_gradient = 2 * out;
#else
  const Eigen::MatrixXf out_gradient = 2 * out;
#endif
  attn::scaled_dot_product_attention_backward(
      {.query = to}, {.log_sum_exp = lse, .out = out, .out_gradient = out_gradient}, x, x, x);
}
