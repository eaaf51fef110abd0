// The ends of the number range: large and tiny scores, NaN and infinity, and small weights.
#include "unit/laws.hpp"

namespace attn_test {
namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

TEST_CASE("scores that rise, fall or stand still along the keys") {
  generator g(124);
  for (const double slope : {0.5, -0.5, 8.0, -8.0, 0.0}) {
    problem<float> p = any_problem<float>(g, {4, 300, 1, 5});
    p.q.setConstant(static_cast<float>(slope));
    p.scale = 1.0;
    for (index j = 0; j < 300; ++j) p.k(j, 0) = static_cast<float>(j);
    checked(p, any_mask(attn::none()));
  }
}

// The bound on a weight is relative to the largest; this one is relative to itself.
template <class Scalar>
void check_exponentials(double lowest) {
  const index keys = 2001;
  problem<Scalar> p{.q = matrix<Scalar>::Ones(1, 1),
                    .k = matrix<Scalar>::Zero(keys, 1),
                    .v = matrix<Scalar>::Ones(keys, 1),
                    .scale = 1.0};
  for (index j = 0; j < keys; ++j) {
    p.k(j, 0) =
        static_cast<Scalar>(lowest * static_cast<double>(j) / static_cast<double>(keys - 1));
  }
  const auto o = run(one_call(), p);
  for (index j = 1; j < keys; ++j) {
    const auto t = -static_cast<long double>(p.k(j, 0));
    const auto ratio =
        static_cast<long double>(o.weights(0, j)) / static_cast<long double>(o.weights(0, 0));
    CHECK(std::abs(ratio * std::exp(t) - 1) <= tolerance::exponential<accumulator<Scalar>>(t));
  }
}

TEST_CASE("small weights are good to the last places") {
  for (const double lowest : {-1.0, -80.0}) {
    check_exponentials<float>(lowest);
    check_exponentials<double>(lowest);
    check_exponentials<long double>(lowest);
  }
}

// What is done again for every block of keys must not add up.
TEST_CASE("many keys of equal score") {
  const index keys = 20000;
  problem<float> p{.q = matrix<float>::Zero(3, 2),
                   .k = matrix<float>::Zero(keys, 2),
                   .v = matrix<float>::Zero(keys, 2)};
  p.v.col(0).head(keys / 2).setOnes();
  p.v.col(1).tail(keys / 2).setOnes();
  const auto o = run(one_call(), p);
  const double allowed = static_cast<double>(tolerance::row_sum<float>(keys / 64));
  CHECK((o.out.array() - 0.5f).abs().maxCoeff() <= allowed);
  CHECK((o.weights.array() * static_cast<float>(keys) - 1).abs().maxCoeff() <= allowed);
  CHECK((o.log_sum_exp.array() - std::log(static_cast<float>(keys))).abs().maxCoeff() <= allowed);
  // The first key alone, again and again beside nothing.
  p.q.setConstant(1);
  p.k.setConstant(-1000);
  p.k.row(0).setZero();
  const auto first = run(one_call(), p);
  CHECK((first.out.col(0).array() - 1).abs().maxCoeff() <= allowed);
  CHECK((first.weights.col(0).array() - 1).abs().maxCoeff() <= allowed);
  CHECK(first.log_sum_exp.array().abs().maxCoeff() <= allowed);
}

TEST_CASE("scores of 1e4 and 1e30") {
  generator g(125);
  for (const double size : {1e2, 1e15}) {
    for (const index d : {1, 2, 16}) {
      for (int repeat = 0; repeat < 4; ++repeat) {
        // One feature a query is not 0, so that every dot product is rounded once in any
        // order.
        problem<float> p = any_problem<float>(g, {9, 70, d, 3});
        p.q.setZero();
        for (index i = 0; i < 9; ++i) {
          p.q(i, g.between(0, d - 1)) = static_cast<float>(g.uniform(-size, size));
        }
        p.k = any_matrix<matrix<float>>(g, 70, d, size);
        p.scale = 1.0;
        const auto o = checked(p, any_mask(attn::none()));
        law_rows_sum_to_one(p, o);
        p.visible = [](place at) { return at.key % 3 != 0; };
        checked(p, any_mask(attn::as_mask([](attn::index, attn::index j) { return j % 3 != 0; })));
      }
    }
  }
  // Whole numbers: large scores that any order of summing gives exactly.
  problem<float> p{.q = (any_matrix<matrix<float>>(g, 20, 8, 40)).array().round(),
                   .k = (any_matrix<matrix<float>>(g, 33, 8, 40)).array().round(),
                   .v = any_matrix<matrix<float>>(g, 33, 4),
                   .scale = 1.0};
  checked(p, any_mask(attn::none()));
  p.scale = -1.0;
  checked(p, any_mask(attn::none()));
}

TEST_CASE("-inf inside K") {
  generator g(126);
  problem<float> p = any_problem<float>(g, {8, 20, 3, 4});
  p.k(4, 1) = -infinity;  // a score of -inf or +inf, by the sign of the query's feature
  auto o = run(one_call(), p);
  check_against(expect(p), o);
  for (index i = 0; i < 8; ++i) {
    if (p.q(i, 1) > 0) {
      CHECK(o.weights(i, 4) == 0);
      CHECK(o.out.row(i).array().isFinite().all());
    } else {
      CHECK(all_nan(o.out, i));
    }
  }
  // Every score -inf from the data: empty rows, not NaN.
  p.q.setConstant(1);
  p.k.setConstant(-infinity);
  o = run(one_call(), p);
  CHECK((o.out.array() == 0).all());
  CHECK((o.weights.array() == 0).all());
  CHECK((o.log_sum_exp.array() == -infinity).all());
  p.sink = 2;
  o = run(one_call(), p);
  CHECK((o.out.array() == 0).all());
  CHECK((o.log_sum_exp.array() == 2).all());
  p.q.setZero();  // 0 · -inf
  CHECK(run(one_call(), p).out.array().isNaN().all());
}

TEST_CASE("scale 0 weighs all keys alike, and a negative one turns the order round") {
  generator g(127);
  problem<float> p = any_problem<float>(g, {7, 10, 4, 3});
  p.scale = 0.0;
  auto o = checked(p, any_mask(attn::none()));
  CHECK(o.weights.isApproxToConstant(0.1f, 1e-6f));
  p.visible = [](place at) { return at.key <= at.query; };
  o = checked(p, any_mask(attn::causal()));
  CHECK(o.weights(3, 0) == Approx(0.25));
  CHECK(o.weights(3, 4) == 0);
  p.visible = nullptr;
  p.scale = -0.5;
  o = checked(p, any_mask(attn::none()));
  problem<float> turned = p;
  turned.scale = 0.5;
  turned.q = -p.q;
  CHECK(same_bits(o, run(one_call(), turned)));
  p.scale = 0.0;
  p.k(2, 0) = infinity;  // 0 · inf
  CHECK(run(one_call(), p).out.array().isNaN().all());
}

// The scale multiplies the finished dot product, before the softmax takes differences.
TEST_CASE("a scale that sends scores to infinity, or brings them back from the end of the range") {
  problem<float> p{.q = matrix<float>::Constant(1, 1, 1e10f),
                   .k = (matrix<float>(3, 1) << 1e10f, 2e10f, -1e10f).finished(),
                   .v = (matrix<float>(3, 1) << 1, 2, 3).finished(),
                   .scale = 1e30};
  CHECK(all_nan(run(one_call(), p).out, 0));  // scores inf, inf, -inf
  p.scale = -1e30;
  CHECK(all_nan(run(one_call(), p).out, 0));
  p.k(2, 0) = 3e10f;
  checked(p, any_mask(attn::none()));  // -inf, -inf, -inf
  p.visible = [](place at) { return at.key > 0; };
  p.scale = 1e30;
  check_against(expect(p),
                run(one_call(), p, attn::as_mask([](attn::position at) { return at.key > 0; })));
  p.visible = nullptr;
  p.q(0, 0) = 1e19f;
  p.k << 2e19f, -2e19f, 1e19f;
  p.scale = 1e-38;  // products 2e38 and -2e38 differ by more than there is; scores 2 and -2 don't
  checked(p, any_mask(attn::none()));
  p.scale = -1e-38;
  checked(p, any_mask(attn::none()));
}

TEST_CASE("products whose difference overflows, at the smallest scale") {
  for (const double scale : {0x1p-126, 0x1.000002p-126}) {
    problem<float> p{.q = matrix<float>::Constant(1, 1, 1e19f),
                     .k = (matrix<float>(2, 1) << 2e19f, -2e19f).finished(),
                     .v = (matrix<float>(2, 1) << 1, 0).finished(),
                     .scale = scale};
    checked(p, any_mask(attn::none()));
  }
}

TEST_CASE("a hidden NaN leaves tiny values as they are") {
  problem<float> p{.q = matrix<float>::Ones(3, 2),
                   .k = matrix<float>::Ones(4, 2),
                   .v = matrix<float>::Constant(4, 2, 1e-36f)};
  const auto mask = attn::key_padding(3);
  const auto clean = run(one_call(), p, mask, attn::identity());
  p.v(3, 1) = nan;
  CHECK(same_bits(clean, run(one_call(), p, mask, attn::identity())));
  CHECK(clean.out(0, 1) == Approx(1e-36f));
}

TEST_CASE("denormals") {
  generator g(132);
  const double tiny = 1e-40;
  problem<float> p = any_problem<float>(g, {6, 9, 4, 3});
  p.v = any_matrix<matrix<float>>(g, 9, 3, tiny);
  const auto o = run(one_call(), p);
  const auto e = evaluate<double>(p);
  const double spacing = std::numeric_limits<float>::denorm_min();
  // Products of denormals are rounded to their spacing: nine of them, and their sum.
  CHECK((o.out.cast<double>() - e.out).cwiseAbs().maxCoeff() <= 10 * spacing);
  CHECK(o.out.cwiseAbs().maxCoeff() > 0);

  p = any_problem<float>(g, {6, 9, 4, 3});
  p.q *= static_cast<float>(tiny);
  checked(p, any_mask(attn::none()));
  // A weight that is denormal, and one that is nothing.
  p = {.q = matrix<float>::Ones(1, 1),
       .k = (matrix<float>(3, 1) << 0, -95, -200).finished(),
       .v = (matrix<float>(3, 1) << 1, 2, 3).finished(),
       .scale = 1.0};
  checked(p, any_mask(attn::none()));
}

TEST_CASE("a row of NaN stays NaN for few keys") {
  generator g(134);
  for (index keys = 1; keys < 70; ++keys) {
    problem<float> p = any_problem<float>(g, {3, keys, 4, 2});
    p.q.row(1).setConstant(nan);
    const auto o = run(one_call(), p);
    CHECK(all_nan(o.out, 1));
    CHECK(all_nan(o.weights, 1));
    CHECK(std::isnan(o.log_sum_exp(1)));
    CHECK(expect(p).against(o.out) == "");
    p.k.setConstant(nan);
    CHECK(run(one_call(), p).out.array().isNaN().all());
  }
}

// The sink leaves every key a weight of 0, but NaN is not a number to be weighed.
TEST_CASE("a NaN is not hidden by a sink that takes all") {
  generator g(137);
  for (const index keys : {1, 5, 64, 65, 200}) {
    problem<float> p = any_problem<float>(g, {3, keys, 4, 2});
    p.sink = 1000;
    checked(p, any_mask(attn::none()));
    p.k(keys / 2, 0) = nan;
    checked(p, any_mask(attn::none()));
    p = any_problem<float>(g, {3, keys, 4, 2});
    p.sink = 1000;
    p.q.row(1).setConstant(nan);
    checked(p, any_mask(attn::none()));
  }
}

TEST_CASE("values near the largest number, weights that add up to 1") {
  generator g(135);
  problem<float> p = any_problem<float>(g, {5, 7, 3, 2});
  p.v.setConstant(3e38f);
  checked(p, any_mask(attn::none()));
  problem<Eigen::half> h = any_problem<Eigen::half>(g, {5, 7, 3, 2}, 200);  // scores up to 7e4
  checked(h, any_mask(attn::none()));
}

}  // namespace
}  // namespace attn_test
