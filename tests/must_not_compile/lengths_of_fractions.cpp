// Lengths are whole numbers.
#include <attn/attn.hpp>
#include <vector>

attn::index call(const attn::heads_array<float>& q) {
#ifdef REFUSED
  const std::vector<float> lengths{3};
#else
  const std::vector<int> lengths{3};
#endif
  return attn::scaled_dot_product_attention(q, q, q, {.key_lengths = lengths}).shape().length;
}
