// What is put together goes to the first two.
#include <attn/attn.hpp>

void call(const Eigen::MatrixXf& part, const Eigen::VectorXf& sums, Eigen::MatrixXf& out,
          Eigen::VectorXf& log_sum_exp) {
#ifdef REFUSED
  attn::merge_into(part, sums, out, log_sum_exp);
#else
  attn::merge_into(out, log_sum_exp, part, sums);
#endif
}
