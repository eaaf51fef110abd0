// Heads full of seeded numbers, and what the tests of many heads compare them by.
#pragma once

#include <attn/heads.hpp>

#include "support/refusal.hpp"
#include "unit/laws.hpp"

namespace attn_test {

template <class T>
attn::heads_array<T> any_heads(generator& g, const attn::heads_shape& n,
                               attn::heads_order order = attn::heads_order::bhld) {
  attn::heads_array<T> a(n, order);
  for (index i = 0; i < n.size(); ++i) {
    a.data()[i] = static_cast<T>(static_cast<float>(g.uniform(-1.5, 1.5)));
  }
  return a;
}

template <class A, class B>
void check_same(const A& a, const B& b) {
  REQUIRE(a.shape() == b.shape());
  for (index n = 0; n < a.shape().batch; ++n) {
    for (index h = 0; h < a.shape().heads; ++h) {
      CAPTURE(n, h);
      CHECK(same_bits(a.head(n, h), b.head(n, h)));
    }
  }
}

}  // namespace attn_test
