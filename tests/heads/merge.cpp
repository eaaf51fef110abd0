// Results over parts of the keys, merged, are the result over all of them.
#include <attn/heads_attention.hpp>
#include <attn/merge.hpp>

#include "heads/support.hpp"

namespace attn_test {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

template <class Scalar>
struct part {
  matrix<Scalar> out;
  vector<Scalar> log_sum_exp;
};

template <class Scalar>
part<Scalar> over(const problem<Scalar>& p, index first, index keys, double sink = -infinity) {
  part<Scalar> a;
  a.out = attn::scaled_dot_product_attention(p.q, p.k.middleRows(first, keys),
                                             p.v.middleRows(first, keys),
                                             {.log_sum_exp = a.log_sum_exp, .sink = sink});
  return a;
}

template <class Scalar>
void check_parts(generator& g) {
  const auto p = any_problem<Scalar>(g, {7, 90, 6, 5});
  const auto expected = expect(p);
  for (const auto& cuts : {std::vector<index>{0, 90}, {0, 1, 90}, {0, 0, 40, 40, 41, 90, 90}}) {
    auto all = over(p, 0, cuts[1]);
    for (std::size_t n = 1; n + 1 < cuts.size(); ++n) {
      const auto next = over(p, cuts[n], cuts[n + 1] - cuts[n]);
      attn::merge_into(all.out, all.log_sum_exp, next.out, next.log_sum_exp);
    }
    CHECK(expected.against(all.out) == "");
    CHECK(expected.against_log_sum_exp(all.log_sum_exp) == "");
  }
}

TEST_CASE("merged parts are the whole, in any number of cuts") {
  generator g(601);
  for (int round = 0; round < 10; ++round) {
    check_parts<float>(g);
    check_parts<double>(g);
  }
}

TEST_CASE("the order of merging does not matter but for rounding") {
  generator g(602);
  const auto p = any_problem<double>(g, {5, 60, 6, 5});
  auto left = over(p, 0, 20), right = over(p, 20, 40);
  const auto before = left;
  attn::merge_into(left.out, left.log_sum_exp, right.out, right.log_sum_exp);
  attn::merge_into(right.out, right.log_sum_exp, before.out, before.log_sum_exp);
  CHECK((left.out - right.out).cwiseAbs().maxCoeff() < 1e-14);
  CHECK((left.log_sum_exp - right.log_sum_exp).cwiseAbs().maxCoeff() < 1e-14);
}

TEST_CASE("a sink is merged last, as a result of 0") {
  generator g(603);
  auto p = any_problem<double>(g, {5, 60, 6, 5});
  auto all = over(p, 0, 60);
  const matrix<double> zero = matrix<double>::Zero(5, 5);
  attn::merge_into(all.out, all.log_sum_exp, zero, vector<double>::Constant(5, 1.5));
  p.sink = 1.5;
  CHECK(expect(p).against(all.out) == "");
  CHECK(expect(p).against_log_sum_exp(all.log_sum_exp) == "");
}

TEST_CASE("nothing merged with nothing is nothing, and a NaN stays one") {
  matrix<float> out = matrix<float>::Zero(2, 3);
  vector<float> lse = vector<float>::Constant(2, -std::numeric_limits<float>::infinity());
  attn::merge_into(out, lse, matrix<float>(out), vector<float>(lse));
  CHECK((out.array() == 0).all());
  CHECK(lse(1) == -std::numeric_limits<float>::infinity());
  const float nan = std::numeric_limits<float>::quiet_NaN();
  matrix<float> bad = matrix<float>::Ones(2, 3);
  bad.row(0).setConstant(nan);
  const vector<float> bad_lse = (vector<float>(2) << nan, 1.0f).finished();
  matrix<float> good = matrix<float>::Ones(2, 3);
  vector<float> good_lse = vector<float>::Constant(2, 1);
  attn::merge_into(good, good_lse, bad, bad_lse);
  CHECK(all_nan(good, 0));
  CHECK(std::isnan(good_lse(0)));
  CHECK((good.row(1).array() == 1).all());
}

TEST_CASE("scores of any size") {
  matrix<float> out = matrix<float>::Constant(1, 1, 1);
  vector<float> lse = vector<float>::Constant(1, 1e30f);
  attn::merge_into(out, lse, matrix<float>::Constant(1, 1, 5), vector<float>::Constant(1, -1e30f));
  CHECK(out(0, 0) == 1);
  CHECK(lse(0) == 1e30f);
  attn::merge_into(out, lse, matrix<float>::Constant(1, 1, 3), vector<float>::Constant(1, 1e30f));
  CHECK(out(0, 0) == 2);
  attn::merge_into(out, lse, matrix<float>::Constant(1, 1, 7), vector<float>::Constant(1, 2e30f));
  CHECK(out(0, 0) == 7);
  CHECK(lse(0) == 2e30f);
  out(0, 0) = 3e38f;
  attn::merge_into(out, lse, matrix<float>::Constant(1, 1, 3e38f), vector<float>(lse));
  CHECK(out(0, 0) == 3e38f);
}

TEST_CASE("all heads at once, and rows that lie") {
  generator g(604);
  const auto q = any_heads<float>(g, {2, 4, 3, 6}), k = any_heads<float>(g, {2, 2, 50, 6});
  attn::heads_array<float> lse, other_lse, whole_lse;
  auto out = attn::scaled_dot_product_attention(q, k.view().tokens(0, 20), k.view().tokens(0, 20),
                                                {.log_sum_exp = lse});
  const auto other = attn::scaled_dot_product_attention(
      q, k.view().tokens(20, 30), k.view().tokens(20, 30), {.log_sum_exp = other_lse});
  attn::merge_into(out, lse, other, other_lse);
  const auto whole = attn::scaled_dot_product_attention(q, k, k, {.log_sum_exp = whole_lse});
  for (index n = 0; n < whole.shape().size(); ++n) {
    CHECK(std::abs(out.data()[n] - whole.data()[n]) < 1e-6f);
  }
  CHECK(std::abs(lse(1, 3, 2, 0) - whole_lse(1, 3, 2, 0)) < 1e-6f);

  matrix<float> two = matrix<float>::Ones(2, 3);
  Eigen::RowVectorXf row = Eigen::RowVectorXf::Zero(2);
  attn::merge_into(two, row, matrix<float>::Zero(2, 3), Eigen::VectorXf::Zero(2));
  CHECK((two.array() == 0.5f).all());
  CHECK(row(1) == std::log(2.0f));

  matrix<float> memory = matrix<float>::Ones(4, 3);
  Eigen::VectorXf sums = Eigen::VectorXf::Zero(4);
  attn::merge_into(memory.middleRows(1, 2), sums.segment(1, 2), matrix<float>::Zero(2, 3),
                   Eigen::VectorXf::Zero(2));
  CHECK((memory.middleRows(1, 2).array() == 0.5f).all());
  CHECK((memory.row(0).array() == 1).all());
  CHECK((memory.row(3).array() == 1).all());
  CHECK(sums(2) == std::log(2.0f));
  CHECK(sums(3) == 0);
}

TEST_CASE("results and log-sum-exps may lie side by side in memory") {
  generator g(606);
  auto memory = any_heads<float>(g, {2, 3, 5, 9}, attn::heads_order::blhd);
  const attn::heads_view<float> all = memory.view();
  const attn::heads_view<float> out(all.data(), {2, 3, 5, 4}, all.strides());
  const attn::heads_view<float> lse(all.data() + 4, {2, 3, 5, 1}, all.strides());
  const attn::heads_view<float> other(all.data() + 5, {2, 3, 5, 3}, all.strides());
  const attn::heads_view<float> other_lse(all.data() + 8, {2, 3, 5, 1}, all.strides());
  const auto q = any_heads<float>(g, {2, 3, 5, 4}), k = any_heads<float>(g, {2, 3, 9, 4});
  attn::heads_array<float> expected, expected_lse;
  attn::scaled_dot_product_attention_into(expected, q, k, k, {.log_sum_exp = expected_lse});
  attn::scaled_dot_product_attention_into(out, q, k, k, {.log_sum_exp = lse});
  const attn::heads_view<float> first(all.data(), {2, 3, 5, 3}, all.strides());
  attn::heads_array<float> before({2, 3, 5, 3});
  for (index b = 0; b < 2; ++b) {
    for (index h = 0; h < 3; ++h) {
      CHECK(out.head(b, h) == expected.head(b, h));
      CHECK(lse.head(b, h) == expected_lse.head(b, h));
      other.head(b, h) = 3 * first.head(b, h);
      other_lse.head(b, h) = lse.head(b, h);
      before.head(b, h) = first.head(b, h);
    }
  }
  attn::merge_into(first, lse, other, other_lse);  // halves of one and of three times as much
  for (index b = 0; b < 2; ++b) {
    for (index h = 0; h < 3; ++h) {
      CHECK(first.head(b, h).isApprox(2 * before.head(b, h)));
    }
  }
}

TEST_CASE("parts that do not fit are refused, and nothing is written") {
  matrix<float> out = matrix<float>::Ones(2, 3);
  vector<float> lse = vector<float>::Ones(2);
  const auto call = [&](index rows, index cols, index numbers) {
    return [&, rows, cols, numbers] {
      attn::merge_into(out, lse, matrix<float>::Zero(rows, cols), vector<float>::Zero(numbers));
    };
  };
  CHECK(missing(call(1, 3, 1), {"other_out is 1 x 3", "out is 2 x 3"}) == "");
  CHECK(missing(call(2, 4, 2), {"other_out is 2 x 4", "out is 2 x 3"}) == "");
  CHECK(missing(call(2, 3, 3), {"other_log_sum_exp has 3 numbers", "2 rows"}) == "");
  vector<float> wrong = vector<float>::Ones(3);
  CHECK(missing([&] { attn::merge_into(out, wrong, matrix<float>(out), lse); },
                {"log_sum_exp has 3 numbers", "2 rows"}) == "");
  matrix<float> square = matrix<float>::Ones(2, 2), four = matrix<float>::Ones(4, 3);
  CHECK(missing([&] { attn::merge_into(four, square, matrix<float>(four), square); },
                {"log_sum_exp is 2 x 2", "a vector"}) == "");
  CHECK((out.array() == 1).all());
  generator g(605);
  auto a = any_heads<float>(g, {1, 2, 3, 4}), b = any_heads<float>(g, {1, 2, 3, 5});
  auto l = any_heads<float>(g, {1, 2, 3, 1});
  CHECK(missing([&] { attn::merge_into(a, l, b, l); }, {"other_out has the shape 1 x 2 x 3 x 5"}) ==
        "");
  CHECK(missing([&] { attn::merge_into(a, b, a, l); }, {"log_sum_exp has the shape"}) == "");

  matrix<float> memory = matrix<float>::Ones(5, 3);
  auto first = memory.topRows(2), shifted = memory.middleRows(1, 2);
  CHECK(missing([&] { attn::merge_into(first, lse, shifted, vector<float>(lse)); },
                {"out overlaps other_out in memory"}) == "");
  CHECK(missing([&] { attn::merge_into(out, lse, matrix<float>(out), lse); },
                {"log_sum_exp overlaps other_log_sum_exp in memory"}) == "");
  CHECK(missing([&] { attn::merge_into(a, l, a, any_heads<float>(g, {1, 2, 3, 1})); },
                {"out overlaps other_out in memory"}) == "");
  CHECK((memory.array() == 1).all());
  CHECK((out.array() == 1).all());
}

}  // namespace
}  // namespace attn_test
