// Score changes: each formula, their composition, their order against masks, and what they refuse.
#include "unit/laws.hpp"

namespace attn_test {
namespace {

TEST_CASE("every score change is what its definition says") {
  generator g(21);
  for (int repeat = 0; repeat < 12; ++repeat) {
    const shape n = any_shape(g, 24);
    for (const index offset : {index{0}, n.keys - n.queries, index{-40}, index{40}}) {
      problem<float> p = any_problem<float>(g, n);
      p.offset = offset;
      for (const auto& change : every_score_change<float>(g, n, offset)) {
        INFO(change.name << ", offset " << offset);
        p.change = change.truth;
        check_against(expect(p), run(one_call(), p, any_mask(attn::none()), change.library));
      }
    }
  }
}

TEST_CASE("the slopes of ALiBi") {
  using doubles = std::vector<double>;
  const auto near = [](const std::vector<double>& found, const doubles& expected) {
    REQUIRE(found.size() == expected.size());
    for (std::size_t h = 0; h < found.size(); ++h) {
      CHECK(found[h] == Approx(expected[h]).epsilon(1e-14));
    }
  };
  near(attn::alibi_slopes(1), {std::exp2(-8)});
  near(attn::alibi_slopes(2), {std::exp2(-4), std::exp2(-8)});
  near(attn::alibi_slopes(8), {0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625});
  // Heads beyond a power of two take every other slope of the next one.
  near(attn::alibi_slopes(3), {std::exp2(-4), std::exp2(-8), std::exp2(-2)});
  near(attn::alibi_slopes(6),
       {std::exp2(-2), std::exp2(-4), std::exp2(-6), std::exp2(-8), std::exp2(-1), std::exp2(-3)});
  for (const index heads : {5, 7, 9, 12, 16, 31, 33}) {
    doubles expected;
    double n = 1;
    while (n * 2 <= static_cast<double>(heads)) n *= 2;
    for (double h = 0; h < static_cast<double>(heads); ++h) {
      expected.push_back(h < n ? std::pow(2, -8 * (h + 1) / n)
                               : std::pow(2, -4 * (2 * (h - n) + 1) / n));
    }
    near(attn::alibi_slopes(heads), expected);
  }
}

// What a score change makes of a score at p = `query` and j = `key` of head `head`.
template <class F>
double changed(const F& change, double s, int query, int key, int head = 0) {
  return change(s, attn::position{.head = head, .row = query, .query = query, .key = key});
}

TEST_CASE("score changes by numbers") {
  CHECK(attn::softcap(2)(3.0) == Approx(2 * std::tanh(1.5)));
  CHECK(attn::softcap(2)(-1e300) == -2);
  CHECK(attn::softcap(2)(0.0) == 0);
  CHECK(changed(attn::alibi(0.5), 1, 7, 3) == 1 - 0.5 * 4);
  CHECK(changed(attn::alibi(0.5), 1, 3, 7) == 1 - 0.5 * 4);
  CHECK(changed(attn::alibi(0.5), 1, -3, 7) == 1 - 0.5 * 10);
  CHECK(changed(attn::alibi(std::vector<double>{0.5, 0.25}), 1, 5, 1, 1) == 1 - 0.25 * 4);
  const std::vector<float> slopes{0.5f, 0.25f};
  CHECK(changed(attn::alibi(slopes), 1, 5, 1, 1) == 1 - 0.25 * 4);
  CHECK(changed(attn::alibi(Eigen::Vector2f(0.5f, 0.25f)), 1, 5, 1, 1) == 1 - 0.25 * 4);

  const Eigen::VectorXd table = Eigen::VectorXd::LinSpaced(7, 10, 70);  // distances -3 ... 3
  CHECK(changed(attn::relative_bias(table), 1, 0, 0) == 41);
  CHECK(changed(attn::relative_bias(table), 1, 4, 1) == 11);
  CHECK(changed(attn::relative_bias(table), 1, 1, 4) == 71);
  const Eigen::MatrixXd per_head = (Eigen::MatrixXd(2, 3) << 1, 2, 3, 4, 5, 6).finished();
  CHECK(changed(attn::relative_bias(per_head), 0, 0, 1, 0) == 3);
  std::vector<float> list{1, 2, 3};
  const auto named = attn::relative_bias(list);
  const auto kept = attn::relative_bias(std::vector<float>(list));
  list[2] = 5;
  CHECK(changed(named, 0, 0, 1, 1) == 5);
  CHECK(changed(kept, 0, 0, 1, 1) == 3);
  CHECK(changed(attn::relative_bias(per_head), 0, 1, 0, 1) == 4);
}

TEST_CASE("a composition goes from left to right") {
  const auto add = [](double s) { return s + 1; };
  const auto twice = [](double s, attn::position) { return 2 * s; };
  CHECK(changed(attn::compose(add, twice), 3, 0, 0) == 8);
  CHECK(changed(attn::compose(twice, add), 3, 0, 0) == 7);
  CHECK(changed(attn::compose(twice, add, twice, add), 1, 0, 0) == 7);
  CHECK(changed(attn::compose(twice), 1, 0, 0) == 2);
  CHECK(changed(attn::compose(attn::softcap(1), attn::alibi(1)), 1e9, 0, 5) == -4);
  CHECK(changed(attn::compose(attn::alibi(1), attn::softcap(1)), 1e9, 0, 5) == 1);
  // Positional as soon as one part is.
  CHECK(
      attn::positional_score_mod<decltype(attn::compose(attn::softcap(1), attn::alibi(1))), float>);
  CHECK(!attn::positional_score_mod<decltype(attn::compose(attn::softcap(1), attn::softcap(1))),
                                    float>);
}

// The mask comes after every change to the score: a soft cap of -inf would be -cap.
TEST_CASE("no score change brings back what a mask hides") {
  generator g(22);
  for (int repeat = 0; repeat < 10; ++repeat) {
    const shape n = any_shape(g, 20);
    problem<float> p = any_problem<float>(g, n);
    p.offset = g.between(-3, 3);
    const Eigen::MatrixXf bias = any_boolean(g, n.queries, n.keys).unaryExpr([&](bool seen) {
      return seen ? static_cast<float>(g.uniform()) : -std::numeric_limits<float>::infinity();
    });
    for (const auto& change : every_score_change<float>(g, n, p.offset)) {
      INFO(change.name);
      p.change = change.truth;
      p.bias = nullptr;
      for (const mask_case& mask : every_mask(g, n.queries, n.keys)) {
        INFO(mask.name);
        p.visible = mask.visible;
        const auto o = run(one_call(), p, mask.mask, change.library);
        check_against(expect(p), o);
        law_rows_sum_to_one(p, o);
        law_empty_rows(p, o);
      }
      p.visible = [](place at) { return at.key <= at.query; };
      p.bias = [&](place at) { return static_cast<double>(bias(at.row, at.key)); };
      check_against(expect(p), run(one_call(), p, attn::causal() & bias, change.library));
    }
  }
}

TEST_CASE("a score change that gives -inf weighs nothing but does not hide") {
  const float infinity = std::numeric_limits<float>::infinity();
  problem<float> p{.q = matrix<float>::Ones(2, 1),
                   .k = matrix<float>::Ones(3, 1),
                   .v = matrix<float>::Ones(3, 2)};
  const any_score_mod<float> drop = [=](float s, attn::position at) {
    return at.key == 1 || at.row == 1 ? -infinity : s;
  };
  p.v << 1, 2, 30, 40, 5, 6;
  auto o = run(one_call(), p, any_mask(attn::none()), drop);
  CHECK(o.weights.row(0).isApprox(Eigen::RowVector3f(0.5f, 0, 0.5f), 1e-6f));
  CHECK(o.weights(0, 1) == 0);
  CHECK(o.out.row(0).isApprox(Eigen::RowVector2f(3, 4), 1e-6f));
  // Row 1 has no score above -inf: an empty row.
  CHECK(o.weights.row(1) == Eigen::RowVector3f(0, 0, 0));
  CHECK(o.out.row(1) == Eigen::RowVector2f(0, 0));
  CHECK(o.log_sum_exp(1) == -infinity);

  p.v(1, 0) = NAN;
  o = run(one_call(), p, any_mask(attn::none()), drop);
  CHECK(std::isnan(o.out(0, 0)));  // 0 · NaN
  CHECK(o.out(0, 1) == Approx(4));
  CHECK(o.out.row(1) == Eigen::RowVector2f(0, 0));
}

TEST_CASE("score changes as a user writes them") {
  generator g(23);
  const index offset = 2;
  problem<double> p = any_problem<double>(g, {6, 9, 4, 3});
  p.offset = offset;
  p.visible = [](place at) { return at.key <= at.query; };
  p.change = [](auto s, place at) { return s - (at.query == at.key ? 1 : 0); };
  const expectation<double> expected = expect(p);
  const attn::options options{.alignment = attn::offset(offset)};
  const auto call = [&](const auto& change) {
    return attn::scaled_dot_product_attention(p.q, p.k, p.v, attn::causal(), change, options);
  };
  CHECK(expected.against(call(
            [](double s, attn::position at) { return s - (at.query == at.key ? 1 : 0); })) == "");
  CHECK(expected.against(call([](auto s, auto at) {
    return s - static_cast<decltype(s)>(at.query == at.key);
  })) == "");
  CHECK(expected.against(call([](const double& s, const attn::position& at) noexcept {
    return at.query == at.key ? s - 1 : s;
  })) == "");
  // A lambda that holds a reference can be copied, not assigned.
  const double penalty = 1;
  CHECK(expected.against(call([&penalty](double s, attn::position at) {
    return at.query == at.key ? s - penalty : s;
  })) == "");
  p.change = [](auto s, place) { return 3 * s; };
  CHECK(expect(p).against(call([](double s) { return 3 * s; })) == "");
}

TEST_CASE("slopes and tables of a head follow the head's number") {
  generator g(24);
  const std::vector<double> slopes{0.5, 0.1, 0.9};
  const Eigen::MatrixXf table = any_matrix<Eigen::MatrixXf>(g, 3, 13);
  for (std::int32_t head = 0; head < 3; ++head) {
    problem<float> p = any_problem<float>(g, {5, 7, 4, 2});
    const double slope = slopes[static_cast<std::size_t>(head)];
    const attn::options options{.alignment = attn::top_left};
    const attn::detail::head_place place_of_head{.batch = 0, .head = head, .heads = 3};
    p.change = [=](auto s, place at) {
      using Number = decltype(s);
      return s - static_cast<Number>(slope) * static_cast<Number>(std::abs(at.query - at.key));
    };
    CHECK(expect(p).against(attn::detail::attention(
              p.q, p.k, p.v, attn::none(), attn::alibi(slopes), options, place_of_head)) == "");
    p.change = [&](auto s, place at) {
      return s + static_cast<decltype(s)>(table(head, 6 + at.key - at.query));
    };
    CHECK(expect(p).against(attn::detail::attention(
              p.q, p.k, p.v, attn::none(), attn::relative_bias(table), options, place_of_head)) ==
          "");
  }
}

}  // namespace
}  // namespace attn_test
