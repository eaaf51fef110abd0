// Every executor gives the same bits, hands exceptions on, and may be used from within itself; and
// the choice of instruction set.
#include <attn/attention.hpp>
#include <unsupported/Eigen/CXX11/ThreadPool>

#include "unit/laws.hpp"

namespace attn_test {
namespace {

TEST_CASE("a pool's threads") {
  generator g(221);
  Eigen::ThreadPool pool(3);
  const auto p = any_problem<float>(g, {500, 90, 16, 8});
  const auto serial = run(one_call(), p, attn::causal(), attn::identity());
  for (int i = 0; i < 20; ++i) {
    CHECK(same_bits(serial,
                    run(one_call(), p, attn::causal(), attn::identity(), attn::eigen_pool(pool))));
  }
  const auto fails = [](attn::position at) {
    if (at.row == 333) throw std::runtime_error("row 333");
    return true;
  };
  CHECK_THROWS_WITH(
      attn::scaled_dot_product_attention(
          p.q, p.k, p.v, fails, {.alignment = attn::top_left, .executor = attn::eigen_pool(pool)}),
      "row 333");
}

TEST_CASE("a call from a thread of the pool it runs on") {
  generator g(222);
  Eigen::ThreadPool pool(1);
  const auto p = any_problem<float>(g, {300, 20, 8, 8});
  Eigen::MatrixXf out;
  Eigen::Barrier done(1);
  pool.Schedule([&] {
    out = attn::scaled_dot_product_attention(p.q, p.k, p.v, {.executor = attn::eigen_pool(pool)});
    done.Notify();
  });
  done.Wait();
  CHECK(out == attn::scaled_dot_product_attention(p.q, p.k, p.v));
}

// What the other tests of the sets would skip in silence.
TEST_CASE("this build has code for every set that it should have") {
#if !ATTN_BUILT_FOR_AVX2 && !ATTN_BUILT_FOR_AVX512 && !ATTN_NEON
  CHECK(attn::detail::is_available(attn::simd::portable));
#endif
#if ATTN_X86
  CHECK(attn::detail::is_compiled(attn::simd::avx512));
#if !ATTN_BUILT_FOR_AVX512
  CHECK(attn::detail::is_compiled(attn::simd::avx2));
#endif
#elif ATTN_NEON
  CHECK(attn::detail::is_available(attn::simd::neon));
#endif
}

TEST_CASE("the instruction set in use can be lowered, and what cannot be used is refused") {
  const attn::simd best = attn::instruction_set();
  CHECK_NOTHROW(attn::use_instruction_set(best));
  CHECK_THROWS_WITH(attn::detail::checked_simd("mmx"),
                    Catch::Matchers::ContainsSubstring("instruction set is \"mmx\"") &&
                        Catch::Matchers::ContainsSubstring(std::string(attn::to_string(best))));
  for (const attn::simd set :
       {attn::simd::avx512, attn::simd::avx2, attn::simd::neon, attn::simd::portable}) {
    if (!attn::detail::is_available(set)) {
      CHECK_THROWS_AS(attn::use_instruction_set(set), std::invalid_argument);
      continue;
    }
    attn::use_instruction_set(set);
    CHECK(attn::instruction_set() == set);
    const Eigen::MatrixXf m = Eigen::MatrixXf::Ones(2, 2);
    CHECK(attn::plan_of(m, m, m).instruction_set == set);
  }
  attn::use_instruction_set(best);
}

}  // namespace
}  // namespace attn_test
