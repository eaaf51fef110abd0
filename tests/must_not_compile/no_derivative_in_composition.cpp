// Nor through a lambda among others.
#include <attn/attn.hpp>

void call(const Eigen::MatrixXf& x, const Eigen::VectorXf& lse, Eigen::MatrixXf& to) {
  const auto typed = [](float s, attn::position) { return s * s; };
#ifdef REFUSED
  const auto change = attn::compose(attn::softcap(1), typed);
#else
  const auto change =
      attn::compose(attn::softcap(1), attn::with_derivative(typed, [](float s) { return 2 * s; }));
#endif
  const attn::forward_pass from{.log_sum_exp = lse, .out = x, .out_gradient = x};
  attn::scaled_dot_product_attention_backward({.query = to}, from, x, x, x, attn::none(), change);
}
