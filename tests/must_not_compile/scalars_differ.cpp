// Which of two types would the call compute in, and which would it return?
#include <attn/attn.hpp>

Eigen::MatrixXf call(const Eigen::MatrixXf& q, const Eigen::MatrixXd& k) {
#ifdef REFUSED
  return attn::scaled_dot_product_attention(q, k, k);
#else
  return attn::scaled_dot_product_attention(q, k.cast<float>(), k.cast<float>());
#endif
}
