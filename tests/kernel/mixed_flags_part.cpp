// Compiled several times: BUILD is the function's name, and the flags are those it names.
#include <attn/attention.hpp>

#include "kernel/mixed_flags.hpp"

#define ATTN_TEST_TEXT(word) #word
#define ATTN_TEST_NAME(word) ATTN_TEST_TEXT(word)

static void run(const float* q, const float* k, const float* v, int rows, int width, float* out) {
  using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using map = Eigen::Map<const matrix>;
  Eigen::Map<matrix> result(out, rows, width);
  attn::scaled_dot_product_attention_into(result, map(q, rows, width), map(k, rows, width),
                                          map(v, rows, width), attn::causal());
}

mixed_flags::build mixed_flags::BUILD() {
  using softmax = Eigen::MatrixXf(const Eigen::MatrixXf&, double);
  softmax* const a_stage = &attn::softmax<const Eigen::MatrixXf&>;
  return {ATTN_TEST_NAME(BUILD),
          run,
          {{reinterpret_cast<const void*>(&attn::instruction_set),
            reinterpret_cast<const void*>(&attn::alibi_slopes),
            reinterpret_cast<const void*>(&attn::detail::refuse),
            reinterpret_cast<const void*>(a_stage)}}};
}
