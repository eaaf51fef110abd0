// A cache of floats and queries of double.
#include <attn/attn.hpp>

attn::index call(const attn::contiguous_cache<float>& cache) {
#ifdef REFUSED
  const attn::heads_array<double> q({1, 1, 1, 4});
#else
  const attn::heads_array<float> q({1, 1, 1, 4});
#endif
  return attn::scaled_dot_product_attention(q, cache).shape().length;
}
