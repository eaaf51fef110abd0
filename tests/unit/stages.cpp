// The stages one by one, and that they compose to the one call.
#include "unit/laws.hpp"

namespace attn_test {
namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

TEST_CASE("score: one dot product per query and key") {
  const Eigen::RowVector2d q(1, 2), k(3, 4);
  CHECK(attn::score(q, k)(0, 0) == 11);

  generator g(81);
  for (int repeat = 0; repeat < 40; ++repeat) {
    const shape n = any_shape(g, 40);
    const Eigen::MatrixXf a = any_matrix<Eigen::MatrixXf>(g, n.queries, n.d);
    const matrix<float> b = any_matrix<matrix<float>>(g, n.keys, n.d);
    const auto s = attn::score(a, b);
    REQUIRE(s.rows() == n.queries);
    REQUIRE(s.cols() == n.keys);
    for (index i = 0; i < n.queries; ++i) {
      for (index j = 0; j < n.keys; ++j) {
        double dot = 0, magnitude = 0;
        for (index c = 0; c < n.d; ++c) {
          dot += double{a(i, c)} * double{b(j, c)};
          magnitude += std::abs(double{a(i, c)} * double{b(j, c)});
        }
        CHECK(std::abs(double{s(i, j)} - dot) <= tolerance::reordered_sum<float>(n.d, magnitude));
      }
    }
  }
  // Whole numbers make an exact product, in any order.
  const Eigen::MatrixXd whole = (any_matrix<Eigen::MatrixXd>(g, 9, 33, 50)).array().round();
  Eigen::MatrixXd dots(9, 9);
  for (index i = 0; i < 9; ++i) {
    for (index j = 0; j < 9; ++j) {
      dots(i, j) = 0;
      for (index c = 0; c < 33; ++c) dots(i, j) += whole(i, c) * whole(j, c);
    }
  }
  CHECK(attn::score(whole, whole) == dots);
}

TEST_CASE("stages keep 16-bit inputs in float, and other types as they are") {
  const auto stages_of = [](auto scalar) {
    using Scalar = decltype(scalar);
    using Accumulator = accumulator<Scalar>;
    static_assert(std::is_same_v<attn::accumulator_t<Scalar>, Accumulator>);
    const matrix<Scalar> x = matrix<Scalar>::Constant(2, 3, static_cast<Scalar>(1.5f));
    const auto s = attn::score(x, x);
    static_assert(std::is_same_v<typename decltype(s)::Scalar, Accumulator>);
    CHECK(s(0, 1) == static_cast<Accumulator>(6.75));
    const auto p = attn::softmax(attn::scale(s, 0.5));
    static_assert(std::is_same_v<typename decltype(p)::Scalar, Accumulator>);
    const auto o = attn::weighted_sum(p, x);
    static_assert(std::is_same_v<typename decltype(o)::Scalar, Accumulator>);
    CHECK(o(1, 2) == static_cast<Accumulator>(1.5));
  };
  stages_of(float{});
  stages_of(double{});
  using long_double = long double;
  stages_of(long_double{});
  stages_of(Eigen::half{});
  stages_of(Eigen::bfloat16{});
}

TEST_CASE("scale multiplies, whatever the type of the factor") {
  const Eigen::MatrixXf s = (Eigen::MatrixXf(2, 2) << 8, -16, infinity, 0).finished();
  CHECK(attn::scale(s, 1 / std::sqrt(64.0))(0, 0) == 1);
  CHECK(attn::scale(s, 0.125f) == s * 0.125f);
  CHECK(attn::scale(s, 2) == 2 * s);
  CHECK(attn::scale(s, -0.5) == -0.5f * s);
  CHECK(std::isnan(attn::scale(s, 0)(1, 0)));
  CHECK(s(0, 0) == 8);  // a matrix with a name is not written to
  CHECK_THROWS_AS(attn::scale(s, std::numeric_limits<double>::infinity()), std::invalid_argument);
  CHECK_THROWS_AS(attn::scale(s, std::numeric_limits<double>::quiet_NaN()), std::invalid_argument);
}

TEST_CASE("apply_mask selects, and adds a bias where it does not hide") {
  generator g(82);
  for (int repeat = 0; repeat < 20; ++repeat) {
    const index queries = g.between(1, 12), keys = g.between(1, 150);
    Eigen::MatrixXf s = any_matrix<Eigen::MatrixXf>(g, queries, keys);
    for (int n = 0; n < 5; ++n) {
      s(g.between(0, queries - 1), g.between(0, keys - 1)) =
          g.one_of(std::vector<float>{nan, infinity, -infinity});
    }
    const Eigen::MatrixXf bias = any_matrix<Eigen::MatrixXf>(g, queries, keys);
    const index offset = g.between(-5, 5);
    for (const mask_case& c : every_mask(g, queries, keys)) {
      INFO(c.name);
      const Eigen::MatrixXf masked = attn::apply_mask(s, c.mask, attn::offset(offset));
      const Eigen::MatrixXf biased = attn::apply_mask(s, c.mask & bias, attn::offset(offset));
      Eigen::MatrixXf expected = s, expected_with_bias = s + bias;
      for (index i = 0; i < queries; ++i) {
        for (index j = 0; j < keys; ++j) {
          if (c.visible(place{i, i + offset, j})) continue;
          expected(i, j) = expected_with_bias(i, j) = -infinity;
        }
      }
      CHECK(same_bits(masked, expected));
      CHECK(same_bits(biased, expected_with_bias));
    }
  }
  const Eigen::MatrixXf square = Eigen::MatrixXf::Zero(2, 2);
  CHECK(attn::apply_mask(square, attn::causal())(0, 1) == -infinity);
  CHECK(attn::apply_mask(square, [](attn::index p, attn::index j) { return p != j; })(1, 1) ==
        -infinity);
  CHECK(square(0, 1) == 0);
}

TEST_CASE("apply_score_mod changes each score at its position") {
  const Eigen::MatrixXd s = Eigen::MatrixXd::Constant(2, 3, 100);
  const auto where = [](double x, attn::position at) {
    return x + 10 * at.query + at.key + 0.5 * at.row;
  };
  const Eigen::MatrixXd expected =
      (Eigen::MatrixXd(2, 3) << 90, 91, 92, 100.5, 101.5, 102.5).finished();
  CHECK(attn::apply_score_mod(s, where, attn::offset(-1)) == expected);
  CHECK(attn::apply_score_mod(s, [](double x) { return -x; }) == -s);
  CHECK(attn::apply_score_mod(s, attn::identity()) == s);
}

TEST_CASE("softmax: rows sum to 1 at any size of the scores") {
  generator g(83);
  for (const double size : {0.0, 1e-30, 1.0, 30.0, 1e4, 1e30, 3e38}) {
    for (const index keys : {1, 2, 7, 64, 65, 200}) {
      const Eigen::MatrixXf s = any_matrix<Eigen::MatrixXf>(g, 9, keys, size);
      const Eigen::MatrixXf p = attn::softmax(s);
      CHECK((p.array() >= 0).all());
      for (index i = 0; i < 9; ++i) {
        CHECK(std::abs(p.row(i).cast<double>().sum() - 1) <=
              static_cast<double>(tolerance::row_sum<float>(keys)));
        index at_s = 0, at_p = 0;
        s.row(i).maxCoeff(&at_s);
        p.row(i).maxCoeff(&at_p);
        CHECK(p(i, at_s) == p(i, at_p));
      }
      CHECK(same_bits(p, attn::softmax(attn::scale(s, 1))));  // of a temporary
    }
  }
}

TEST_CASE("softmax and log_sum_exp by numbers") {
  const double ln2 = std::log(2.0), ln3 = std::log(3.0), lowest = -HUGE_VAL;
  const Eigen::MatrixXd s = (Eigen::MatrixXd(6, 2) << 0, ln3,  //
                             1000, 1000 + ln3,                 //
                             -1000, -1000 + ln3,               //
                             lowest, 5,                        //
                             lowest, lowest,                   //
                             1e308, -1e308)
                                .finished();
  const Eigen::MatrixXd p = (Eigen::MatrixXd(6, 2) << 0.25, 0.75, 0.25, 0.75, 0.25, 0.75,  //
                             0, 1, 0, 0, 1, 0)
                                .finished();
  CHECK((attn::softmax(s) - p).cwiseAbs().maxCoeff() < 1e-13);
  CHECK(attn::softmax(s).row(4).isZero(0));
  const auto lse = attn::log_sum_exp(s);
  CHECK(lse.size() == 6);
  CHECK(lse(0) == Approx(2 * ln2));
  CHECK(lse(1) == Approx(1000 + 2 * ln2));
  CHECK(lse(2) == Approx(-1000 + 2 * ln2));
  CHECK(lse(3) == 5);
  CHECK(lse(4) == lowest);
  CHECK(lse(5) == 1e308);

  // A sink of ln 4 beside 1 and 3: of 8 parts, it takes 4.
  const Eigen::MatrixXd with_sink = attn::softmax(s, 2 * ln2);
  CHECK(with_sink(0, 0) == Approx(0.125));
  CHECK(with_sink(0, 1) == Approx(0.375));
  CHECK(with_sink(2, 1) == 0);
  CHECK(with_sink.row(4).isZero(0));
  CHECK(attn::log_sum_exp(s, 2 * ln2)(0) == Approx(3 * ln2));
  CHECK(attn::log_sum_exp(s, 2 * ln2)(4) == Approx(2 * ln2));
}

TEST_CASE("softmax and log_sum_exp keep NaN and inf in their row, for rows of any length") {
  generator g(84);
  for (const index keys : {1, 2, 3, 4, 5, 8, 15, 16, 17, 64}) {
    for (const float poison : {nan, infinity}) {
      for (index j = 0; j < keys; ++j) {
        Eigen::MatrixXf s = any_matrix<Eigen::MatrixXf>(g, 3, keys);
        const Eigen::MatrixXf sound = attn::softmax(s);
        s(1, j) = poison;
        const Eigen::MatrixXf p = attn::softmax(s);
        CHECK(std::isnan(p(1, j)));
        CHECK(std::isnan(attn::log_sum_exp(s)(1)));
        CHECK(same_bits(p.row(0), sound.row(0)));
        CHECK(same_bits(p.row(2), sound.row(2)));
        s.row(1).setConstant(-infinity);
        s(1, j) = poison;
        CHECK(std::isnan(attn::softmax(s)(1, j)));
        s.row(1).setConstant(poison);
        CHECK(attn::softmax(s).row(1).array().isNaN().all());
        CHECK(std::isnan(attn::log_sum_exp(s, 3.0)(1)));
      }
    }
  }
}

TEST_CASE("weighted_sum without a mask is a product") {
  generator g(85);
  const Eigen::MatrixXd p = any_matrix<Eigen::MatrixXd>(g, 5, 7),
                        v = any_matrix<Eigen::MatrixXd>(g, 7, 3);
  CHECK(attn::weighted_sum(p, v).isApprox(p.lazyProduct(v), 1e-14));
  CHECK(attn::weighted_sum(Eigen::MatrixXd::Identity(7, 7), v) == v);
  CHECK(attn::weighted_sum(Eigen::MatrixXd::Zero(2, 7), v) == Eigen::MatrixXd::Zero(2, 3));
}

// Hidden keys are kept out whatever weight they carry and whatever lies in their values.
TEST_CASE("weighted_sum with a mask keeps what is hidden out of the sum") {
  generator g(86);
  for (int repeat = 0; repeat < 20; ++repeat) {
    const shape n = any_shape(g, 30);
    const Eigen::MatrixXd p = any_matrix<Eigen::MatrixXd>(g, n.queries, n.keys).cwiseAbs();
    const index offset = g.between(-5, 5);
    for (const mask_case& c : every_mask(g, n.queries, n.keys)) {
      INFO(c.name);
      Eigen::MatrixXd v = any_matrix<Eigen::MatrixXd>(g, n.keys, n.dv);
      for (const bool poisoned : {false, true}) {
        const index at = g.between(0, n.keys - 1);
        if (poisoned) v(at, 0) = nan;
        Eigen::MatrixXd expected = Eigen::MatrixXd::Zero(n.queries, n.dv);
        for (index i = 0; i < n.queries; ++i) {
          for (index j = 0; j < n.keys; ++j) {
            if (c.visible(place{i, i + offset, j})) expected.row(i) += p(i, j) * v.row(j);
          }
        }
        const Eigen::MatrixXd o = attn::weighted_sum(p, v, c.mask, attn::offset(offset));
        CHECK((o.array().isNaN() == expected.array().isNaN()).all());
        const auto allowed =
            (p.rowwise().sum() * tolerance::reordered_sum<double>(n.keys, 1)).eval();
        for (index i = 0; i < n.queries; ++i) {
          const auto error = (o.row(i) - expected.row(i)).array().abs();
          CHECK((error <= allowed(i) || expected.row(i).array().isNaN()).all());
        }
      }
    }
  }
}

TEST_CASE("the stages compose to the one call") {
  generator g(87);
  for (int repeat = 0; repeat < 30; ++repeat) {
    const shape n = any_shape(g, 40);
    problem<float> p = any_problem<float>(g, n);
    p.offset = g.between(-4, 4);
    const mask_case c = any_composition(g, every_mask(g, n.queries, n.keys), 1);
    const auto change = g.one_of(every_score_change<float>(g, n, p.offset));
    INFO(c.name << ", " << change.name);
    p.visible = c.visible;
    p.change = change.truth;
    if (g.chance(0.5)) p.sink = g.uniform(-2, 2);
    const auto alignment = attn::offset(p.offset);
    const auto s = attn::apply_mask(
        attn::apply_score_mod(
            attn::scale(attn::score(p.q, p.k), 1 / std::sqrt(static_cast<double>(n.d))),
            change.library, alignment),
        c.mask, alignment);
    const outcome<float> staged{
        attn::weighted_sum(attn::softmax(s, p.sink), p.v, c.mask, alignment),
        attn::softmax(s, p.sink), attn::log_sum_exp(s, p.sink)};
    const auto expected = expect(p);
    check_against(expected, staged);
    check_against(expected, run(one_call(), p, c.mask, change.library));
  }
}

TEST_CASE("stages of nothing") {
  const Eigen::MatrixXf none(0, 3), some = Eigen::MatrixXf::Ones(2, 3);
  CHECK(attn::score(none, some).rows() == 0);
  CHECK(attn::score(some, none).cols() == 0);
  CHECK(attn::score(Eigen::MatrixXf(2, 0), Eigen::MatrixXf(3, 0)) == Eigen::MatrixXf::Zero(2, 3));
  CHECK(attn::softmax(Eigen::MatrixXf(2, 0)).rows() == 2);
  CHECK(attn::log_sum_exp(Eigen::MatrixXf(2, 0)) == Eigen::Vector2f(-infinity, -infinity));
  CHECK(attn::log_sum_exp(Eigen::MatrixXf(2, 0), 3.0) == Eigen::Vector2f(3, 3));
  CHECK(attn::log_sum_exp(Eigen::MatrixXf(0, 2)).size() == 0);
  CHECK(attn::weighted_sum(Eigen::MatrixXf(2, 0), Eigen::MatrixXf(0, 3)) ==
        Eigen::MatrixXf::Zero(2, 3));
  CHECK(attn::weighted_sum(some, Eigen::MatrixXf(3, 0)).cols() == 0);
  CHECK(attn::apply_mask(Eigen::MatrixXf(0, 2), attn::causal(), attn::top_left).rows() == 0);
}

TEST_CASE("stages refuse what does not fit") {
  const Eigen::MatrixXf a(2, 3), b(4, 5);
  const auto message = [](auto&& stage) -> std::string {
    try {
      stage();
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "accepted";
  };
  CHECK(message([&] { attn::score(a, b); }) == "key has 5 columns, query has 3");
  CHECK(message([&] { attn::weighted_sum(a, b); }) == "value has 4 rows, weights have 3 columns");
  CHECK(message([&] { attn::apply_mask(a, attn::causal()); }).find("attn::bottom_right") !=
        std::string::npos);
  CHECK(message([&] { attn::apply_score_mod(a, attn::alibi(1)); }).find("attn::bottom_right") !=
        std::string::npos);
  CHECK(message([&] { attn::apply_mask(a, boolean_matrix::Ones(2, 4)); }).find('4') !=
        std::string::npos);
  CHECK(message([&] { attn::apply_mask(a, boolean_matrix::Ones(3, 3)); }) != "accepted");
  CHECK(message([&] { attn::softmax(a, std::numeric_limits<double>::infinity()); }) != "accepted");
  CHECK(message([&] { attn::log_sum_exp(a, std::numeric_limits<double>::quiet_NaN()); }) !=
        "accepted");
}

}  // namespace
}  // namespace attn_test
