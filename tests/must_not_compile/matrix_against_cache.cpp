// How many heads a matrix holds, a call on a cache cannot know.
#include <attn/attn.hpp>

void call(const attn::contiguous_cache<float>& cache, const Eigen::MatrixXf& query,
          Eigen::MatrixXf& out) {
#ifdef REFUSED
  attn::scaled_dot_product_attention_into(out, query, cache, attn::causal(),
                                          {.alignment = attn::bottom_right});
#else
  attn::scaled_dot_product_attention_into(attn::split_heads(out, 2), attn::split_heads(query, 2),
                                          cache, attn::causal(), {.alignment = attn::bottom_right});
#endif
}
