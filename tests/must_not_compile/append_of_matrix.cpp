// How many heads a matrix holds, a cache cannot know.
#include <attn/attn.hpp>

void call(attn::contiguous_cache<float>& cache, const Eigen::MatrixXf& token) {
#ifdef REFUSED
  cache.append(token, token);
#else
  cache.append(attn::split_heads(token, 2), attn::split_heads(token, 2));
#endif
}
