// Hidden means inert: what a row does not see can't reach it, NaN and inf included, and what it
// does see always does.
#include "unit/laws.hpp"

namespace attn_test {
namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

template <class Scalar>
bool same_row(const outcome<Scalar>& a, const outcome<Scalar>& b, index i) {
  return same_bits(a.out.row(i), b.out.row(i)) && same_bits(a.weights.row(i), b.weights.row(i)) &&
         same_bits(a.log_sum_exp.row(i), b.log_sum_exp.row(i));
}

// The keys and values `planted` (by index) hold something awful in `bad`, and are sound in `sound`.
// Rows that see none of them are the same to the bit.
template <class Scalar>
void law_hidden_is_inert(const problem<Scalar>& p, const std::vector<index>& planted,
                         const outcome<Scalar>& sound, const outcome<Scalar>& bad) {
  for (index i = 0; i < p.q.rows(); ++i) {
    bool sees = false;
    for (const index j : planted) {
      sees = sees || !p.visible || p.visible(place{i, i + p.offset, j});
    }
    CAPTURE(i);
    if (!sees) CHECK(same_row(sound, bad, i));
  }
}

// The other direction: a NaN in a key that is seen makes the row, its weights and its lse NaN.
template <class Scalar>
void law_seen_nan_shows(const problem<Scalar>& p, index planted, const outcome<Scalar>& bad) {
  for (index i = 0; i < p.q.rows(); ++i) {
    if (p.visible && !p.visible(place{i, i + p.offset, planted})) continue;
    CAPTURE(i);
    CHECK(all_nan(bad.out, i));
    CHECK(std::isnan(bad.weights(i, planted)));
    CHECK(std::isnan(bad.log_sum_exp(i)));
  }
}

template <class Scalar>
void plant_everywhere(generator& g, const problem<Scalar>& p, const any_mask& mask) {
  const auto sound = run(one_call(), p, mask);
  const index j = g.between(0, p.k.rows() - 1);
  const index column = g.between(0, p.k.cols() - 1), value_column = g.between(0, p.v.cols() - 1);
  for (const float poison : {nan, infinity, -infinity, 3e38f}) {
    CAPTURE(poison, j);
    auto bad = p;
    bad.k(j, column) = static_cast<Scalar>(poison);
    auto o = run(one_call(), bad, mask);
    law_hidden_is_inert(p, {j}, sound, o);
    if (std::isnan(poison)) law_seen_nan_shows(p, j, o);

    bad = p;
    bad.v(j, value_column) = static_cast<Scalar>(poison);
    o = run(one_call(), bad, mask);
    law_hidden_is_inert(p, {j}, sound, o);
    CHECK(same_bits(sound.weights, o.weights));
    CHECK(same_bits(sound.log_sum_exp, o.log_sum_exp));
    CHECK(expect(bad).against(o.out) == "");
    for (index c = 0; c < p.v.cols(); ++c) {
      if (c != value_column) CHECK(same_bits(sound.out.col(c), o.out.col(c)));
    }

    bad.k.row(j).setConstant(static_cast<Scalar>(poison));
    bad.v.row(j).setConstant(static_cast<Scalar>(poison));
    law_hidden_is_inert(p, {j}, sound, run(one_call(), bad, mask));
  }
}

TEST_CASE("what a mask hides is inert, what it shows is not") {
  generator g(61);
  for (int repeat = 0; repeat < 6; ++repeat) {
    const shape n = any_shape(g, repeat < 5 ? 24 : 150);
    problem<float> p = any_problem<float>(g, n);
    const auto cases = every_mask(g, n.queries, n.keys);
    for (const mask_case& c : cases) {
      INFO(n.queries << " queries, " << n.keys << " keys, d " << n.d << ", dv " << n.dv << ", "
                     << c.name);
      p.visible = c.visible;
      p.offset = g.one_of(std::vector<index>{0, n.keys - n.queries, g.between(-9, 9)});
      plant_everywhere(g, p, c.mask);
    }
    for (int m = 0; m < 6; ++m) {
      const mask_case c = any_composition(g, cases, 2);
      INFO(c.name);
      p.visible = c.visible;
      plant_everywhere(g, p, c.mask);
    }
  }
}

TEST_CASE("what a mask hides is inert in every scalar and layout") {
  generator g(62);
  for (int repeat = 0; repeat < 4; ++repeat) {
    const shape n = any_shape(g, 20);
    const boolean_matrix visible = any_boolean(g, n.queries, n.keys);
    const auto truth = [&](place at) { return visible(at.row, at.key); };
    auto sixteen = any_problem<Eigen::half>(g, n);
    sixteen.visible = truth;
    plant_everywhere(g, sixteen, attn::as_mask(visible));
    auto wide = any_problem<double>(g, n);
    wide.visible = truth;
    plant_everywhere(g, wide, attn::as_mask(visible));

    const auto p = any_problem<float>(g, n);
    const index j = g.between(0, n.keys - 1);
    Eigen::MatrixXf k = p.k, v = p.v;
    const Eigen::MatrixXf q = p.q;
    const Eigen::MatrixXf sound = attn::scaled_dot_product_attention(q, k, v, visible);
    k.row(j).setConstant(nan);
    v.row(j).setConstant(infinity);
    const Eigen::MatrixXf bad = attn::scaled_dot_product_attention(q, k, v, visible);
    for (index i = 0; i < n.queries; ++i) {
      CHECK((visible(i, j) || same_bits(sound.row(i), bad.row(i))));
      if (visible(i, j)) CHECK(bad.row(i).array().isNaN().all());
    }
  }
}

TEST_CASE("an additive mask of -inf hides as well as a boolean one") {
  generator g(63);
  for (int repeat = 0; repeat < 20; ++repeat) {
    const shape n = any_shape(g, 30);
    problem<float> p = any_problem<float>(g, n);
    const boolean_matrix visible = any_boolean(g, n.queries, n.keys);
    const Eigen::MatrixXf bias =
        visible.unaryExpr([&](bool b) { return b ? static_cast<float>(g.uniform()) : -infinity; });
    p.visible = [&](place at) { return visible(at.row, at.key); };
    const attn::identity add;
    const auto sound = run(one_call(), p, attn::as_mask(bias), add);
    const index j = g.between(0, n.keys - 1);
    auto bad = p;
    bad.k.row(j).setConstant(nan);
    bad.v.row(j).setConstant(nan);
    const auto o = run(one_call(), bad, attn::as_mask(bias), add);
    law_hidden_is_inert(p, {j}, sound, o);
    law_seen_nan_shows(p, j, o);
  }
}

TEST_CASE("padding is inert, whatever lies in it") {
  generator g(64);
  for (const index length : {0, 1, 5, 63, 64, 65, 100}) {
    problem<float> p = any_problem<float>(g, {7, 130, 5, 3});
    p.visible = [=](place at) { return at.key < length; };
    const auto sound = run(one_call(), p, attn::key_padding(length));
    auto bad = p;
    bad.k.bottomRows(130 - length).setConstant(nan);
    bad.v.bottomRows(130 - length).setConstant(infinity);
    CHECK(same_bits(sound, run(one_call(), bad, attn::key_padding(length))));
    // ... and where all that was padding is cut off, the answer is the same within the bound.
    auto cut = p;
    cut.k.conservativeResize(length, Eigen::NoChange);
    cut.v.conservativeResize(length, Eigen::NoChange);
    cut.visible = nullptr;
    CHECK(expect(cut).against(sound.out) == "");
    CHECK(expect(cut).against_log_sum_exp(sound.log_sum_exp) == "");
  }
}

TEST_CASE("what a mask hides is inert where there are no values, only weights and sums") {
  generator g(67);
  const boolean_matrix visible = any_boolean(g, 9, 7);
  problem<double> p = any_problem<double>(g, {9, 7, 4, 0});
  p.visible = [&](place at) { return visible(at.row, at.key); };
  const auto sound = run(one_call(), p, attn::as_mask(visible));
  for (const index j : {0, 6}) {
    auto bad = p;
    bad.k.row(j).setConstant(nan);
    const auto o = run(one_call(), bad, attn::as_mask(visible));
    law_hidden_is_inert(p, {j}, sound, o);
    law_seen_nan_shows(p, j, o);
  }
}

TEST_CASE("a NaN in a query reaches its own row only; a row that sees nothing does not even look") {
  generator g(65);
  problem<float> p = any_problem<float>(g, {9, 12, 4, 3});
  p.visible = [](place at) { return at.key <= at.query - 3; };
  const auto mask =
      any_mask(attn::as_mask([](attn::index i, attn::index j) { return j <= i - 3; }));
  const auto sound = run(one_call(), p, mask);
  for (const index row : {1, 5}) {
    auto bad = p;
    bad.q.row(row).setConstant(nan);
    const auto o = run(one_call(), bad, mask);
    for (index i = 0; i < 9; ++i) {
      if (i != row || i < 3) {
        CHECK(same_row(sound, o, i));
      } else {
        CHECK(all_nan(o.out, i));
        CHECK(std::isnan(o.log_sum_exp(i)));
      }
    }
  }
}

TEST_CASE("rows that see nothing are 0 even where every value is NaN") {
  problem<float> p{.q = matrix<float>::Ones(3, 2),
                   .k = matrix<float>::Constant(4, 2, nan),
                   .v = matrix<float>::Constant(4, 2, nan)};
  p.visible = [](place at) { return at.row == 1; };
  for (const double sink : {-std::numeric_limits<double>::infinity(), 2.0}) {
    p.sink = sink;
    const auto o = run(one_call(), p, attn::as_mask([](attn::position at) { return at.row == 1; }));
    CHECK(law_empty_rows(p, o) == 2);
    CHECK(all_nan(o.out, 1));
  }
}

TEST_CASE(
    "a score of +inf, a bias of +inf or NaN and an infinite value are not made into numbers") {
  const attn::identity add;
  generator g(66);
  problem<float> p = any_problem<float>(g, {3, 5, 4, 2});
  const auto sound = run(one_call(), p);
  for (const float poison : {infinity, nan}) {
    Eigen::MatrixXf bias = Eigen::MatrixXf::Zero(3, 5);
    bias(1, 2) = poison;
    const auto o = run(one_call(), p, attn::as_mask(bias), add);
    CHECK(all_nan(o.out, 1));
    CHECK(std::isnan(o.log_sum_exp(1)));
    CHECK(same_row(sound, o, 0));
    CHECK(same_row(sound, o, 2));
    const auto lifted = run(one_call(), p, any_mask(attn::none()),
                            any_score_mod<float>([=](float s, attn::position at) {
                              return at.row == 1 && at.key == 4 ? poison : s;
                            }));
    CHECK(all_nan(lifted.out, 1));
    CHECK(std::isnan(lifted.log_sum_exp(1)));
    CHECK(same_row(sound, lifted, 0));
    p.sink = 1;
    CHECK(all_nan(run(one_call(), p, attn::as_mask(bias), add).out, 1));
    p.sink = -std::numeric_limits<double>::infinity();
  }
  // An overflowing product of finite numbers.
  auto large = p;
  large.q.row(1).setConstant(3e20f);
  large.k.setConstant(3e20f);
  CHECK(all_nan(run(one_call(), large).out, 1));
  CHECK(expect(large).against(run(one_call(), large).out) == "");
  // inf and -inf in one column that both are seen.
  auto both = p;
  both.v(0, 1) = infinity;
  both.v(3, 1) = -infinity;
  CHECK(run(one_call(), both).out.col(1).array().isNaN().all());
  CHECK(same_bits(sound.out.col(0), run(one_call(), both).out.col(0)));
  both.v(3, 1) = 1;
  CHECK((run(one_call(), both).out.col(1).array() == infinity).all());
}

}  // namespace
}  // namespace attn_test
