// The laws and the reference over generated shapes, masks, scales and sinks.
#include "unit/laws.hpp"

namespace attn_test {
namespace {

const attn::identity unchanged;

TEST_CASE("the reference knows what one can work out by hand") {
  // Scores 11 and 0, weights e^11 : 1.
  problem<double> p{.q = (matrix<double>(1, 2) << 1, 2).finished(),
                    .k = (matrix<double>(2, 2) << 3, 4, 2, -1).finished(),
                    .v = (matrix<double>(2, 1) << 0, 1).finished(),
                    .scale = 1.0};
  auto a = evaluate<long double>(p);
  CHECK(static_cast<double>(a.out(0, 0)) == Approx(1 / (1 + std::exp(11.0))).epsilon(1e-14));
  CHECK(static_cast<double>(a.log_sum_exp(0)) == Approx(11 + std::log1p(std::exp(-11.0))));
  // ... and with a sink as strong as the first key, half of that.
  p.sink = 11;
  a = evaluate<long double>(p);
  CHECK(static_cast<double>(a.weights(0, 0)) == Approx(1 / (2 + std::exp(-11.0))).epsilon(1e-14));
  // Its bound is no wider than its plain formula errs.
  CHECK(static_cast<double>(expect(p).out_error(0, 0)) < 5e-16);
  CHECK(expect(p).against(matrix<double>::Constant(1, 1, 0.5)) != "");
  CHECK(expect(p).against(matrix<double>::Constant(1, 1, NAN)) != "");
}

TEST_CASE("every mask agrees with the reference around the edges of tiles") {
  generator g(41);
  for (const shape n : edge_shapes(g)) {
    problem<float> p = any_problem<float>(g, n);
    const auto cases = every_mask(g, n.queries, n.keys);
    for (int repeat = 0; repeat < 5; ++repeat) {
      p.offset = g.one_of(std::vector<index>{0, n.keys - n.queries, g.between(-9, 9)});
      const mask_case c = any_composition(g, cases, repeat == 4 ? 2 : 0);
      INFO(n.queries << " queries, " << n.keys << " keys, d " << n.d << ", dv " << n.dv
                     << ", offset " << p.offset << ", " << c.name);
      p.visible = c.visible;
      const auto o = run(one_call(), p, c.mask);
      check_against(expect(p), o);
      law_rows_sum_to_one(p, o);
      law_outputs_are_means(p, o);
      law_empty_rows(p, o);
    }
  }
}

TEST_CASE("every mask agrees with the reference at every alignment") {
  generator g(42);
  index empty = 0;
  for (int repeat = 0; repeat < 15; ++repeat) {
    const shape n = any_shape(g, 12);
    problem<float> p = any_problem<float>(g, n);
    for (const mask_case& c : every_mask(g, n.queries, n.keys)) {
      p.visible = c.visible;
      for (const index offset : {index{0}, n.keys - n.queries, -n.queries - 2, n.keys + 2,
                                 index{-1000000}, index{1000000}}) {
        INFO(n.queries << " queries, " << n.keys << " keys, offset " << offset << ", " << c.name);
        p.offset = offset;
        const auto o = run(one_call(), p, c.mask);
        check_against(expect(p), o);
        empty += law_empty_rows(p, o);
      }
    }
  }
  CHECK(empty > 100);  // the cases do reach rows that see nothing
}

TEST_CASE("the alignments by name") {
  generator g(43);
  for (const auto& [queries, keys] : {std::pair<index, index>{3, 7}, {7, 3}, {5, 5}, {1, 9}}) {
    problem<float> p = any_problem<float>(g, {queries, keys, 4, 3});
    p.visible = [](place at) { return at.key <= at.query; };
    const auto call = [&](attn::alignment alignment) {
      return attn::scaled_dot_product_attention(p.q, p.k, p.v, attn::causal(),
                                                {.alignment = alignment});
    };
    CHECK(expect(p).against(call(attn::top_left)) == "");
    p.offset = keys - queries;
    CHECK(expect(p).against(call(attn::bottom_right)) == "");
    CHECK(expect(p).against(call(attn::offset(keys - queries))) == "");
    p.offset = -2;
    CHECK(expect(p).against(call(attn::offset(-2))) == "");
  }
  // Given once, it may stay: the same options where nothing is positional.
  const problem<float> p = any_problem<float>(g, {3, 7, 4, 3});
  CHECK(expect(p).against(attn::scaled_dot_product_attention(
            p.q, p.k, p.v, {.alignment = attn::bottom_right})) == "");
}

TEST_CASE("additive masks are added, with any bias beside any mask") {
  generator g(44);
  for (int repeat = 0; repeat < 40; ++repeat) {
    const shape n = any_shape(g, 30);
    problem<float> p = any_problem<float>(g, n);
    const index rows = g.chance(0.5) ? 1 : n.queries;
    Eigen::MatrixXf bias = any_matrix<Eigen::MatrixXf>(g, rows, n.keys, 3);
    if (g.chance(0.5)) {
      bias = bias.unaryExpr(
          [&](float b) { return g.chance(0.3) ? -std::numeric_limits<float>::infinity() : b; });
    }
    p.bias = [&](place at) { return static_cast<double>(bias(rows == 1 ? 0 : at.row, at.key)); };
    CHECK(expect(p).against(attn::scaled_dot_product_attention(p.q, p.k, p.v, bias)) == "");
    check_against(expect(p), run(one_call(), p, attn::as_mask(bias), unchanged));
    const mask_case c = any_composition(g, every_mask(g, n.queries, n.keys), 1);
    INFO(c.name);
    p.visible = c.visible;
    p.offset = g.between(-5, 5);
    check_against(expect(p), run(one_call(), p, c.mask & bias, unchanged));
    const Eigen::MatrixXf more = any_matrix<Eigen::MatrixXf>(g, n.queries, n.keys);
    p.bias = [&](place at) {
      return static_cast<double>(bias(rows == 1 ? 0 : at.row, at.key) + more(at.row, at.key));
    };
    check_against(expect(p), run(one_call(), p, bias & c.mask & more, unchanged));
  }
}

TEST_CASE("finite lowest values are numbers, not masks") {
  const float lowest = std::numeric_limits<float>::lowest();
  generator g(45);
  problem<float> p = any_problem<float>(g, {3, 5, 4, 2});
  for (const float value : {-1e4f, -1e9f, lowest}) {
    Eigen::MatrixXf bias = Eigen::MatrixXf::Zero(3, 5);
    bias.row(1).setConstant(value);
    p.bias = [&](place at) { return static_cast<double>(bias(at.row, at.key)); };
    const auto o = run(one_call(), p, attn::as_mask(bias), unchanged);
    check_against(expect(p), o);
    CHECK(o.weights.row(1).sum() == Approx(1));
    CHECK(std::isfinite(o.log_sum_exp(1)));
  }
}

TEST_CASE("scale: its default, any finite value, after the dot product") {
  generator g(46);
  problem<float> p = any_problem<float>(g, {9, 14, 16, 5});
  const matrix<float> by_default = attn::scaled_dot_product_attention(p.q, p.k, p.v);
  CHECK(expect(p).against(by_default) == "");
  CHECK(same_bits(by_default, attn::scaled_dot_product_attention(p.q, p.k, p.v, {.scale = 0.25})));
  for (const double scale : {1.0, 0.05, -1.0, -0.25, 0.0, -0.0, 30.0, 1e-30}) {
    CAPTURE(scale);
    p.scale = scale;
    check_against(expect(p), run(one_call(), p));
  }
  // 1e20 · 1e20 overflows before a scale of 1e-30 can save it: inf, so NaN.
  p = {.q = matrix<float>::Constant(1, 1, 1e20f),
       .k = matrix<float>::Constant(2, 1, 1e20f),
       .v = matrix<float>::Ones(2, 1),
       .scale = 1e-30};
  CHECK(std::isnan(run(one_call(), p).out(0, 0)));
}

TEST_CASE("a sink takes its share") {
  generator g(47);
  for (const double sink : {0.0, 1.5, -3.0, 50.0, -50.0, 1000.0, -1000.0}) {
    for (int repeat = 0; repeat < 6; ++repeat) {
      const shape n = any_shape(g, 24);
      problem<float> p = any_problem<float>(g, n);
      const mask_case c = any_composition(g, every_mask(g, n.queries, n.keys), 1);
      INFO("sink " << sink << ", " << c.name);
      p.visible = c.visible;
      p.offset = g.between(-30, 30);
      p.sink = sink;
      const auto o = run(one_call(), p, c.mask);
      check_against(expect(p), o);
      law_rows_sum_to_one(p, o);
      law_outputs_are_means(p, o);
      law_empty_rows(p, o);
    }
  }
}

// Scores that are multiples of 1/4 stay exact when a whole number is added.
TEST_CASE("shifting all scores of a row changes nothing but log_sum_exp") {
  generator g(48);
  for (int repeat = 0; repeat < 20; ++repeat) {
    const shape n = any_shape(g, 30);
    problem<float> p = any_problem<float>(g, n, 3);
    p.q = p.q.array().round();
    p.k = p.k.array().round();
    p.scale = 0.25;
    const mask_case c = any_composition(g, every_mask(g, n.queries, n.keys), 1);
    p.visible = c.visible;
    const auto expected = expect(p);
    for (const float shift : {1.0f, -7.0f, 500.0f, -500.0f}) {
      const auto o =
          run(one_call(), p, c.mask, any_score_mod<float>([=](float s, attn::position at) {
                return s + shift + static_cast<float>(at.row);
              }));
      CHECK(expected.against(o.out) == "");
      CHECK(expected.against_weights(o.weights) == "");
      auto shifted = p;
      shifted.change = [=](auto s, place at) {
        using Number = decltype(s);
        return s + static_cast<Number>(shift) + static_cast<Number>(at.row);
      };
      CHECK(expect(shifted).against_log_sum_exp(o.log_sum_exp) == "");
    }
  }
}

TEST_CASE("permuting keys with their values changes nothing; permuting queries permutes rows") {
  generator g(49);
  for (int repeat = 0; repeat < 30; ++repeat) {
    const shape n = any_shape(g, 40);
    problem<float> p = any_problem<float>(g, n);
    const boolean_matrix mask = any_boolean(g, n.queries, n.keys);
    p.visible = [&](place at) { return mask(at.row, at.key); };
    const auto expected = expect(p);
    const auto shuffled = [&](index length) {
      Eigen::PermutationMatrix<Eigen::Dynamic> permutation(length);
      permutation.setIdentity();
      for (index j = length - 1; j > 0; --j) {
        permutation.applyTranspositionOnTheRight(j, g.between(0, j));
      }
      return permutation;
    };
    const auto keys = shuffled(n.keys);
    const auto queries = shuffled(n.queries);
    auto permuted = p;
    permuted.k = keys * p.k;
    permuted.v = keys * p.v;
    permuted.q = queries * p.q;
    const boolean_matrix permuted_mask = queries * mask * keys.transpose();
    auto o = run(one_call(), permuted, attn::as_mask(permuted_mask));
    CHECK(expected.against((queries.transpose() * o.out).eval()) == "");
    CHECK(expected.against_weights((queries.transpose() * o.weights * keys).eval()) == "");
    CHECK(expected.against_log_sum_exp((queries.transpose() * o.log_sum_exp).eval()) == "");
  }
}

TEST_CASE("a window at least as long as the sequence is no window") {
  generator g(50);
  for (int repeat = 0; repeat < 20; ++repeat) {
    const shape n = any_shape(g, 40);
    problem<float> p = any_problem<float>(g, n);
    p.offset = n.keys - n.queries;
    const index length = std::max(n.queries, n.keys) + g.between(0, 3);
    const auto all = expect(p);
    check_against(all, run(one_call(), p, attn::sliding_window(length)));
    check_against(all, run(one_call(), p, attn::sliding_window(attn::unbounded, length)));
    check_against(all, run(one_call(), p, attn::sliding_window(-1, -1)));
    p.visible = [](place at) { return at.key <= at.query; };
    const auto causal = expect(p);
    check_against(causal, run(one_call(), p, attn::sliding_window(length, 0)));
    check_against(causal, run(one_call(), p, attn::sliding_window(attn::unbounded, 0)));
    check_against(causal, run(one_call(), p, attn::causal() & attn::sliding_window(length)));
  }
}

TEST_CASE("powers of two and signs of values pass through exactly") {
  generator g(51);
  for (int repeat = 0; repeat < 20; ++repeat) {
    const shape n = any_shape(g, 40);
    problem<float> p = any_problem<float>(g, n);
    const mask_case c = any_composition(g, every_mask(g, n.queries, n.keys), 1);
    const auto o = run(one_call(), p, c.mask);
    auto scaled = p;
    scaled.v *= 8;
    CHECK(same_bits(run(one_call(), scaled, c.mask).out, matrix<float>(8 * o.out)));
    scaled.v = -p.v;
    CHECK((run(one_call(), scaled, c.mask).out.array() == -o.out.array()).all());
  }
}

TEST_CASE("a row that sees a single key is its value") {
  generator g(55);
  for (int repeat = 0; repeat < 20; ++repeat) {
    const shape n = any_shape(g, 100);
    problem<float> p = any_problem<float>(g, n);
    std::vector<index> only;
    for (index i = 0; i < n.queries; ++i) only.push_back(g.between(0, n.keys - 1));
    const auto one = run(one_call(), p, attn::as_mask([&](attn::position at) {
                           return at.key == only[static_cast<std::size_t>(at.row)];
                         }));
    for (index i = 0; i < n.queries; ++i) {
      const auto value = p.v.row(only[static_cast<std::size_t>(i)]);
      CHECK((one.out.row(i) - value).cwiseAbs().maxCoeff() <=
            tolerance::out<float>(0.0f, value.cwiseAbs().maxCoeff()));
    }
  }
}

// The results over two disjoint sets of keys, weighted by exp(lse), are the result over both.
TEST_CASE("log_sum_exp merges partial results") {
  generator g(52);
  for (int repeat = 0; repeat < 30; ++repeat) {
    const shape n = any_shape(g, 40);
    problem<double> p = any_problem<double>(g, n);
    const boolean_matrix mask = any_boolean(g, n.queries, n.keys, 0.4);
    const auto a = run(one_call(), p, attn::as_mask(mask));
    const auto b = run(one_call(), p, any_mask(~attn::as_mask(mask)));
    const auto whole = run(one_call(), p);
    for (index i = 0; i < n.queries; ++i) {
      const double m = std::max(a.log_sum_exp(i), b.log_sum_exp(i));
      const double x = std::exp(a.log_sum_exp(i) - m), y = std::exp(b.log_sum_exp(i) - m);
      CHECK(((x * a.out.row(i) + y * b.out.row(i)) / (x + y)).isApprox(whole.out.row(i), 1e-13));
      CHECK(m + std::log(x + y) == Approx(whole.log_sum_exp(i)).epsilon(1e-13));
    }
  }
}

TEST_CASE("a row depends on no other row, bit for bit") {
  generator g(53);
  for (int repeat = 0; repeat < 20; ++repeat) {
    const shape n = any_shape(g, 40);
    problem<float> p = any_problem<float>(g, n);
    const mask_case c = any_composition(g, every_mask(g, n.queries, n.keys), 1);
    const auto before = run(one_call(), p, c.mask);
    const index kept = g.between(0, n.queries - 1);
    for (const float other : {0.0f, 1e30f, std::numeric_limits<float>::infinity(), NAN}) {
      auto changed = p;
      changed.q.setConstant(other);
      changed.q.row(kept) = p.q.row(kept);
      const auto after = run(one_call(), changed, c.mask);
      CHECK(same_bits(before.out.row(kept), after.out.row(kept)));
      CHECK(same_bits(before.weights.row(kept), after.weights.row(kept)));
      CHECK(same_bits(before.log_sum_exp.row(kept), after.log_sum_exp.row(kept)));
    }
  }
}

TEST_CASE("asking for weights or log_sum_exp changes no result") {
  generator g(54);
  const problem<float> p = any_problem<float>(g, {20, 30, 8, 5});
  const auto both = run(one_call(), p);
  Eigen::VectorXf lse;
  Eigen::MatrixXf weights;
  const auto call = [&](const attn::options& o) {
    return attn::scaled_dot_product_attention(p.q, p.k, p.v, o);
  };
  CHECK(same_bits(both.out, call({})));
  CHECK(same_bits(both.out, call({.log_sum_exp = lse})));
  CHECK(same_bits(both.out, call({.weights = weights})));
  CHECK(same_bits(both.log_sum_exp, lse));
  CHECK(same_bits(both.weights, weights));
}

}  // namespace
}  // namespace attn_test
