// Which of two types would the call on heads compute in?
#include <attn/attn.hpp>

attn::heads_array<float> call(const attn::heads_array<float>& q,
                              const attn::heads_array<double>& k) {
#ifdef REFUSED
  return attn::scaled_dot_product_attention(q, k, k);
#else
  static_cast<void>(k);
  return attn::scaled_dot_product_attention(q, q, q);
#endif
}
