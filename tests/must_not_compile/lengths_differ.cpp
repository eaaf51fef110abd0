// A value for every key.
#include <attn/attn.hpp>

#ifdef REFUSED
constexpr int values = 5;
#else
constexpr int values = 6;
#endif

auto call(const Eigen::Matrix<float, 4, 8>& q, const Eigen::Matrix<float, 6, 8>& k,
          const Eigen::Matrix<float, values, 3>& v) {
  return attn::scaled_dot_product_attention(q, k, v);
}
