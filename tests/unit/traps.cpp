// The traps that other libraries fell into, each by name.
#include "unit/laws.hpp"

namespace attn_test {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

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
  const auto o = run(one_call(), p, attn::as_mask(bias), attn::identity());
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
