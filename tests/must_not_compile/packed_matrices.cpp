// How many heads a matrix holds, a call on packed sequences cannot know.
#include <attn/attn.hpp>
#include <vector>

auto call(const Eigen::MatrixXf& tokens, const std::vector<int>& starts) {
#ifdef REFUSED
  return attn::packed_attention(tokens, tokens, tokens, starts, attn::causal());
#else
  const auto heads = attn::split_heads(tokens, 2);
  return attn::packed_attention(heads, heads, heads, starts, attn::causal());
#endif
}
