// The traps that other libraries fell into (docs of each: the name of its test), and numerics at
// the ends of the number range.
#include "unit/laws.hpp"

namespace attn_test {
namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();
const attn::identity unchanged;

template <class Scalar, class M>
outcome<Scalar> checked(const problem<Scalar>& p, const M& mask) {
  const auto o = run(one_call(), p, mask, unchanged);
  check_against(expect(p), o);
  law_empty_rows(p, o);
  return o;
}

TEST_CASE("first or last block of keys wholly masked") {
  generator g(121);
  for (const index keys : {640, 600, 129}) {
    for (const index hidden : {64, 128, 127, 100}) {
      problem<float> p = any_problem<float>(g, {5, keys, 8, 4});
      for (const bool first : {true, false}) {
        INFO(keys << " keys, " << hidden << " hidden " << (first ? "first" : "last"));
        const auto seen = [=](index j) { return first ? j >= hidden : j < keys - hidden; };
        p.visible = [=](place at) { return seen(at.key); };
        boolean_matrix boolean(5, keys);
        Eigen::MatrixXf bias(1, keys);
        for (index j = 0; j < keys; ++j) {
          boolean.col(j).setConstant(seen(j));
          bias(0, j) = seen(j) ? 0 : -infinity;
        }
        p.offset = 0;
        checked(p, attn::as_mask(boolean));
        checked(p, attn::as_mask(bias));
        checked(p, attn::as_mask([=](attn::index, attn::index j) { return seen(j); }));
        // By a window: rows far behind the first block, or far before the last.
        p.offset = first ? keys + 10 : -keys;
        p.visible = [=](place at) { return at.key - at.query >= -(keys + 10 - hidden); };
        checked(p, attn::sliding_window(keys + 10 - hidden, -1));
      }
    }
  }
  // All but the last ten of 600, with a row of -inf throughout.
  problem<float> p = any_problem<float>(g, {3, 600, 8, 4});
  Eigen::MatrixXf bias = Eigen::MatrixXf::Constant(3, 600, -infinity);
  bias.rightCols(10).setZero();
  bias.row(1).setConstant(-infinity);
  p.bias = [&](place at) { return static_cast<double>(bias(at.row, at.key)); };
  const auto o = run(one_call(), p, attn::as_mask(bias), unchanged);
  check_against(expect(p), o);
  CHECK((o.out.row(1).array() == 0).all());
}

TEST_CASE("masked blocks alternate with seen ones") {
  generator g(122);
  for (const index block : {1, 16, 64, 128}) {
    problem<float> p = any_problem<float>(g, {70, 640, 4, 3});
    const auto seen = [=](index i, index j) { return (i / block + j / block) % 2 == 0; };
    p.visible = [=](place at) { return seen(at.query, at.key); };
    checked(p, any_mask(attn::as_mask(seen)));
  }
}

// Every key of the first block but one is hidden, and so on: the running maximum starts anywhere.
TEST_CASE("one dominating key, wherever it comes") {
  generator g(123);
  for (const index keys : {1, 9, 64, 65, 200}) {
    for (const index at : {index{0}, keys / 2, keys - 1}) {
      problem<float> p = any_problem<float>(g, {6, keys, 4, 3});
      p.scale = 1.0;
      p.q.setConstant(1);
      p.k.row(at).setConstant(50);
      const auto o = checked(p, any_mask(attn::none()));
      for (index i = 0; i < 6; ++i) CHECK(o.weights(i, at) == Approx(1));
      CHECK(o.out.row(3).isApprox(p.v.row(at), 1e-6f));
      // Seen by half of the rows only.
      p.visible = [=](place where) { return where.key != at || where.row % 2 == 0; };
      checked(p, any_mask(attn::as_mask(
                     [=](attn::index i, attn::index j) { return j != at || i % 2 == 0; })));
    }
  }
}

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
        // One feature a query is not 0, so that every dot product is rounded once in any order.
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

TEST_CASE("windows (0, 0) and (0, -1)") {
  generator g(128);
  for (const index length : {1, 5, 64, 65}) {
    problem<float> p = any_problem<float>(g, {length, length, 4, 3});
    p.visible = [](place at) { return at.key == at.query; };
    auto o = checked(p, attn::sliding_window(0, 0));
    CHECK(o.out.isApprox(p.v, 1e-6f));
    p.visible = [](place at) { return at.key >= at.query; };
    o = checked(p, attn::sliding_window(0, -1));
    CHECK(o.out.bottomRows(1).isApprox(p.v.bottomRows(1), 1e-6f));
    p.visible = [](place at) { return at.key <= at.query; };
    checked(p, attn::sliding_window(-1, 0));
  }
}

TEST_CASE("offsets beyond both ends") {
  generator g(129);
  const problem<float> sample = any_problem<float>(g, {4, 6, 4, 3});
  for (const index offset : {-2000000000, -100, -5, -4, -3, 6, 7, 100, 2000000000}) {
    CAPTURE(offset);
    problem<float> p = sample;
    p.offset = offset;
    p.visible = [](place at) { return at.key <= at.query; };
    const auto o = checked(p, attn::causal());
    if (offset <= -4) CHECK((o.out.array() == 0).all());
    p.visible = [](place at) { return std::abs(at.key - at.query) <= 2; };
    checked(p, attn::sliding_window(2));
    p.visible = [](place at) { return at.key < 2 || at.key <= at.query; };
    checked(p, attn::prefix(2));
    p.visible = [](place at) { return at.query >= 0 && at.query < 6; };
    checked(p, attn::documents(std::vector<int>(6, 1)));
  }
}

TEST_CASE("every width d") {
  generator g(130);
  for (const index d : {1, 3, 7, 64, 80, 96, 128, 192, 256, 512}) {
    INFO("d " << d);
    for (const index dv : {index{1}, index{5}, d}) {
      problem<float> p = any_problem<float>(g, {19, 37, d, dv});
      p.visible = [](place at) { return at.key <= at.query + 18; };
      checked(p, attn::sliding_window(-1, 18));
    }
    checked(any_problem<double>(g, {5, 9, d, d}), any_mask(attn::none()));
    checked(any_problem<Eigen::bfloat16>(g, {5, 9, d, d}), any_mask(attn::none()));
  }
}

TEST_CASE("V a view of K, and all three the same matrix") {
  generator g(131);
  problem<float> p = any_problem<float>(g, {12, 12, 8, 8});
  p.k = p.v = p.q;
  const auto expected = expect(p);
  CHECK(expected.against(attn::scaled_dot_product_attention(p.q, p.q, p.q)) == "");
  CHECK(expected.against(attn::scaled_dot_product_attention(p.q, p.k, p.k)) == "");
  p.v = p.k.leftCols(3);
  CHECK(expect(p).against(attn::scaled_dot_product_attention(p.q, p.k, p.k.leftCols(3))) == "");
  p.v = p.k.middleCols(2, 5).rowwise().reverse();
  CHECK(expect(p).against(attn::scaled_dot_product_attention(
            p.q, p.k, p.k.middleCols(2, 5).rowwise().reverse())) == "");
  // The result may replace an input.
  Eigen::MatrixXf x = p.q;
  p.v = p.k;
  x = attn::scaled_dot_product_attention(x, x, x);
  CHECK(expect(p).against(x) == "");
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

TEST_CASE("nothing to attend to, nobody to attend, no width, no values") {
  generator g(133);
  for (const shape n : {shape{3, 0, 4, 2},
                        {0, 5, 4, 2},
                        {3, 5, 0, 2},
                        {3, 5, 4, 0},
                        {0, 0, 4, 2},
                        {3, 0, 0, 2},
                        {0, 0, 0, 0},
                        {3, 5, 0, 0},
                        {1, 0, 4, 1},
                        {1, 1, 0, 1}}) {
    INFO(n.queries << " queries, " << n.keys << " keys, d " << n.d << ", dv " << n.dv);
    problem<float> p = any_problem<float>(g, n);
    const auto o = checked(p, any_mask(attn::none()));
    CHECK(o.out.rows() == n.queries);
    CHECK(o.out.cols() == n.dv);
    checked(p, any_mask(attn::key_padding(n.keys)));
    checked(p, attn::as_mask(boolean_matrix(boolean_matrix::Constant(n.queries, n.keys, true))));
    checked(p, attn::as_mask(Eigen::MatrixXf(Eigen::MatrixXf::Zero(1, n.keys))));
    p.sink = 1.5;
    checked(p, any_mask(attn::none()));
    p.visible = [](place at) { return at.key <= at.query; };
    checked(p, attn::causal());
  }
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
    p.sink = 1000;  // leaves the others a weight of 0, but NaN is not a number to be weighed
    CHECK(all_nan(run(one_call(), p).out, 1));
    CHECK(std::isnan(run(one_call(), p).log_sum_exp(1)));
    problem<float> one_key = any_problem<float>(g, {3, keys, 4, 2});
    one_key.k(keys / 2, 0) = nan;
    one_key.sink = 1000;
    CHECK(run(one_call(), one_key).out.array().isNaN().all());
    p.sink = -std::numeric_limits<double>::infinity();
    p.k.setConstant(nan);
    CHECK(run(one_call(), p).out.array().isNaN().all());
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

// A result whose oracle is itself NaN passes anything that does not look.
TEST_CASE("the reference is finite where the inputs are, and so is the result") {
  generator g(136);
  for (int repeat = 0; repeat < 20; ++repeat) {
    const shape n = any_shape(g, 30);
    problem<float> p = any_problem<float>(g, n);
    const mask_case c = any_composition(g, every_mask(g, n.queries, n.keys), 1);
    p.visible = c.visible;
    const auto e = expect(p);
    CHECK(e.exact.out.allFinite());
    CHECK(e.out_error.allFinite());
    const auto o = run(one_call(), p, c.mask);
    CHECK(o.out.allFinite());
    CHECK(o.weights.allFinite());
  }
}

}  // namespace
}  // namespace attn_test
