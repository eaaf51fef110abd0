// What is constant can't receive a gradient.
#include <attn/attn.hpp>

#ifdef REFUSED
using target = const Eigen::MatrixXf;
#else
using target = Eigen::MatrixXf;
#endif

void call(const Eigen::MatrixXf& x, const Eigen::VectorXf& lse, target& to) {
  const attn::forward_pass from{.log_sum_exp = lse, .out = x, .out_gradient = x};
  const attn::gradients gradients{.query = to};
  attn::scaled_dot_product_attention_backward(gradients, from, x, x, x);
}
