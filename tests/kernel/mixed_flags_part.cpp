// Compiled several times: BUILD is the function's name, and the flags are those it names.
#include <attn/attention.hpp>

#include "kernel/mixed_flags.hpp"

void mixed_flags::BUILD(const float* q, const float* k, const float* v, int rows, int width,
                        float* out) {
  using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using map = Eigen::Map<const matrix>;
  Eigen::Map<matrix> result(out, rows, width);
  attn::scaled_dot_product_attention_into(result, map(q, rows, width), map(k, rows, width),
                                          map(v, rows, width), attn::causal());
}
