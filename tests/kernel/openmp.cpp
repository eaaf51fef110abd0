// The executor that is there only where the compiler is told to use OpenMP.
#include <attn/attention.hpp>

#include "unit/laws.hpp"

namespace attn_test {
namespace {

TEST_CASE("OpenMP's threads") {
  generator g(231);
  const auto p = any_problem<float>(g, {500, 90, 16, 8});
  const auto serial = run(one_call(), p, attn::causal(), attn::identity());
  for (const int threads : {0, 1, 2, 5}) {
    CHECK(same_bits(serial,
                    run(one_call(), p, attn::causal(), attn::identity(), attn::openmp(threads))));
  }
  CHECK_THROWS_WITH(attn::openmp(-1), "openmp has -1 threads, it should be at least 0");
  const auto fails = [](attn::position at) {
    if (at.row == 333) throw std::runtime_error("row 333");
    return true;
  };
  CHECK_THROWS_WITH(
      attn::scaled_dot_product_attention(
          p.q, p.k, p.v, fails, {.alignment = attn::top_left, .executor = attn::openmp(2)}),
      "row 333");
}

}  // namespace
}  // namespace attn_test
