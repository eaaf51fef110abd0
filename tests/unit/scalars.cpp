// Scalars: float, double, long double, and the two of 16 bits.
#include "unit/laws.hpp"

namespace attn_test {
namespace {

template <class Scalar>
void agrees_everywhere(std::uint64_t seed) {
  generator g(seed);
  for (int repeat = 0; repeat < 12; ++repeat) {
    const shape n = any_shape(g, repeat < 11 ? 30 : 130);
    problem<Scalar> p = any_problem<Scalar>(g, n);
    p.offset = g.between(-5, 5);
    const mask_case c = any_composition(g, every_mask(g, n.queries, n.keys), 1);
    const auto change = g.one_of(every_score_change<Scalar>(g, n, p.offset));
    INFO(c.name << ", " << change.name);
    p.visible = c.visible;
    auto o = run(one_call(), p, c.mask);
    check_against(expect(p), o);
    law_rows_sum_to_one(p, o);
    law_empty_rows(p, o);
    p.change = change.truth;
    p.sink = g.uniform(-2, 2);
    p.scale = g.uniform(-1, 1);
    check_against(expect(p), run(one_call(), p, c.mask, change.library));
  }
}

TEST_CASE("every scalar agrees with the reference") {
  SECTION("float") { agrees_everywhere<float>(161); }
  SECTION("double") { agrees_everywhere<double>(162); }
  SECTION("long double") { agrees_everywhere<long double>(163); }
  SECTION("half") { agrees_everywhere<Eigen::half>(164); }
  SECTION("bfloat16") { agrees_everywhere<Eigen::bfloat16>(165); }
}

// A 16-bit sum would lose the tail of these, a 16-bit product the low half.
TEST_CASE("16-bit inputs are accumulated in float") {
  const index keys = 4096;
  matrix<Eigen::bfloat16> q = matrix<Eigen::bfloat16>::Zero(1, 1);
  matrix<Eigen::bfloat16> k = matrix<Eigen::bfloat16>::Zero(keys, 1);
  matrix<Eigen::bfloat16> v = matrix<Eigen::bfloat16>::Constant(keys, 1, Eigen::bfloat16(1.0f));
  vector<float> lse;
  CHECK(attn::scaled_dot_product_attention(q, k, v, {.log_sum_exp = lse})(0, 0) ==
        Eigen::bfloat16(1.0f));
  CHECK(lse(0) == Approx(std::log(4096.0)).epsilon(1e-6));
  matrix<Eigen::half> a = matrix<Eigen::half>::Constant(1, 3, Eigen::half(300.0f));
  CHECK(attn::score(a, a)(0, 0) == 270000.0f);  // beyond half
}

TEST_CASE("a NaN in a seen value shows, even where a sink takes all") {
  const auto with = [](auto scalar) {
    using Scalar = decltype(scalar);
    const matrix<Scalar> zero = matrix<Scalar>::Zero(1, 1);
    const matrix<Scalar> v =
        matrix<Scalar>::Constant(1, 1, Scalar(std::numeric_limits<float>::quiet_NaN()));
    const auto out = attn::scaled_dot_product_attention(zero, zero, v, {.sink = 30000});
    CHECK(std::isnan(static_cast<float>(out(0, 0))));
  };
  with(float{});
  with(double{});
  with(static_cast<long double>(0));
  with(Eigen::half{});
  with(Eigen::bfloat16{});
}

// A difference of the types of mask and inputs does not matter: a bias is converted.
TEST_CASE("a bias of another type is converted to that of the scores") {
  generator g(166);
  const auto with = [&](auto scalar, auto bias_scalar) {
    using Scalar = decltype(scalar);
    using Bias = matrix<decltype(bias_scalar)>;
    problem<Scalar> p = any_problem<Scalar>(g, {5, 8, 4, 3});
    const Bias bias = any_matrix<Bias>(g, 5, 8);
    p.bias = [&](place at) {
      return static_cast<double>(static_cast<accumulator<Scalar>>(bias(at.row, at.key)));
    };
    CHECK(expect(p).against(attn::scaled_dot_product_attention(p.q, p.k, p.v, bias)) == "");
  };
  with(float{}, double{});
  with(double{}, float{});
  with(Eigen::half{}, float{});
  with(Eigen::half{}, Eigen::half{});
  with(float{}, Eigen::bfloat16{});
}

}  // namespace
}  // namespace attn_test
