// What bench/compile.cpp has compiled: Eigen alone, the header of calls on matrices, all of the
// library, or a call.
#if defined(EIGEN_CORE)
#include <Eigen/Core>
#elif defined(INCLUDE_ATTENTION)
#include <attn/attention.hpp>
#else
#include <attn/attn.hpp>
#endif

#if defined(ONE_CALL)
Eigen::MatrixXf attend(const Eigen::MatrixXf& q, const Eigen::MatrixXf& k,
                       const Eigen::MatrixXf& v) {
  return attn::scaled_dot_product_attention(q, k, v, attn::causal());
}
#endif
