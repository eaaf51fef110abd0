// What the tests of expressions and sizes share: samples in Eigen's own types, and how far a causal
// call on any expressions of them is from the reference.
#pragma once

#include "unit/laws.hpp"

namespace attn_test {

using Eigen::Dynamic;
using column_major = Eigen::MatrixXf;
using row_major = matrix<float>;

template <class Q, class K, class V>
std::string difference(const Q& q, const K& k, const V& v) {
  problem<float> p{.q = q, .k = k, .v = v};
  p.visible = [](place at) { return at.key <= at.query; };
  return expect(p).against(
      attn::scaled_dot_product_attention(q, k, v, attn::causal(), {.alignment = attn::top_left}));
}

struct sample {
  column_major q, k, v;
};
inline sample any_sample(generator& g, shape n) {
  return {any_matrix<column_major>(g, n.queries, n.d), any_matrix<column_major>(g, n.keys, n.d),
          any_matrix<column_major>(g, n.keys, n.dv)};
}

}  // namespace attn_test
