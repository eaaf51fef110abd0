// A 32-bit x86 processor told to compute in registers of 80 bits.
#ifdef REFUSED
#define __i386__ 1  // NOLINT(bugprone-reserved-identifier): what compilers define for it
#undef __FLT_EVAL_METHOD__
#define __FLT_EVAL_METHOD__ 2  // NOLINT(bugprone-reserved-identifier): likewise
#endif
#include <attn/attn.hpp>

Eigen::MatrixXf call(const Eigen::MatrixXf& x) {
  return attn::scaled_dot_product_attention(x, x, x);
}
