// Numbers of one type carry no derivative through a lambda.
#include <attn/attn.hpp>

void call(const Eigen::MatrixXf& x, const Eigen::VectorXf& lse, Eigen::MatrixXf& to) {
#ifdef REFUSED
  const auto change = [](float s) { return s * s; };
#else
  const auto change = [](auto s) { return s * s; };
#endif
  const attn::forward_pass from{.log_sum_exp = lse, .out = x, .out_gradient = x};
  attn::scaled_dot_product_attention_backward({.query = to}, from, x, x, x, attn::none(), change);
}
