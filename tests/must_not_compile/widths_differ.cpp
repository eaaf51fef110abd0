// Sizes that are known to differ are refused before the program runs.
#include <attn/attn.hpp>

#ifdef REFUSED
constexpr int width_of_key = 7;
#else
constexpr int width_of_key = 8;
#endif

auto call(const Eigen::Matrix<float, 4, 8>& q, const Eigen::Matrix<float, 6, width_of_key>& k,
          const Eigen::Matrix<float, 6, 3>& v) {
  return attn::scaled_dot_product_attention(q, k, v);
}
