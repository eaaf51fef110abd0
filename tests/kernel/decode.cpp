// Few queries against many keys, which the kernel sums in another order unless it should be
// reproducible: the same results, laws and traps as ever, and the same bits whatever else is in the
// call.
#include <attn/heads_attention.hpp>

#include "unit/laws.hpp"

namespace attn_test {
namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

// Without weights, which are the other path's.
template <class Scalar>
struct few {
  matrix<Scalar> out;
  vector<Scalar> log_sum_exp;
};
template <class Scalar, class M = any_mask, class F = attn::identity>
few<Scalar> run_few(const problem<Scalar>& p, const M& mask = attn::none(), const F& change = {},
                    bool reproducible = false) {
  few<Scalar> o;
  o.out = attn::scaled_dot_product_attention(p.q, p.k, p.v, mask, change,
                                             {.alignment = attn::offset(p.offset),
                                              .log_sum_exp = o.log_sum_exp,
                                              .reproducible = reproducible,
                                              .scale = p.scale,
                                              .sink = p.sink});
  return o;
}

template <class Scalar>
void check_few(const problem<Scalar>& p, const few<Scalar>& o) {
  const auto expected = expect(p);
  CHECK(expected.against(o.out) == "");
  CHECK(expected.against_log_sum_exp(o.log_sum_exp) == "");
}

template <class Scalar>
void check_shape(generator& g, const shape& n) {
  INFO(n.queries << " queries, " << n.keys << " keys, widths " << n.d << " and " << n.dv);
  const auto p = any_problem<Scalar>(g, n);
  check_few(p, run_few(p));
  check_few(p, run_few(p, attn::none(), attn::identity(), true));
}

TEST_CASE("every number of few queries, and of keys around tiles, strips and chunks") {
  generator g(301);
  for (index keys = 1; keys <= 300; ++keys) {
    check_shape<float>(g, {keys % 9 + 1, keys, 20, 18});
    check_shape<double>(g, {keys % 5 + 1, keys, 9, 7});
  }
  for (const index keys : {1023, 1024, 1025, 1040, 2047, 2048, 2049, 5000}) {
    for (const index queries : {1, 2, 3, 8}) check_shape<float>(g, {queries, keys, 8, 8});
    check_shape<double>(g, {3, keys, 5, 4});
  }
}

TEST_CASE("every width") {
  generator g(302);
  for (index d = 1; d <= 130; ++d) {
    check_shape<float>(g, {d % 8 + 1, 150, d, 6});
    check_shape<float>(g, {d % 8 + 1, 150, 6, d});
    check_shape<double>(g, {d % 4 + 1, 150, d, d});
  }
  for (const index d : {192, 256, 512}) check_shape<float>(g, {3, 200, d, d});
  for (const index queries : {1, 3}) {
    check_shape<float>(g, {queries, 200, 0, 6});
    check_shape<float>(g, {queries, 200, 6, 0});
    check_shape<double>(g, {queries, 200, 0, 0});
  }
}

TEST_CASE("every mask and score change, with sinks and scales") {
  generator g(303);
  for (int round = 0; round < 12; ++round) {
    const shape n{g.between(1, 8), g.between(128, 1200), 8, 5};
    auto p = any_problem<float>(g, n);
    p.offset = round % 2 == 0 ? n.keys - n.queries : g.between(0, n.keys);
    if (round % 3 == 1) p.sink = g.uniform(-1, 1);
    if (round % 4 == 1) p.scale = g.uniform(-0.4, 0.4);  // larger scores leave accuracy to chance
    if (round == 8) p.scale = 0;
    const auto masks = every_mask(g, n.queries, n.keys);
    for (const mask_case& m : masks) {
      CAPTURE(round, m.name);
      p.visible = m.visible;
      check_few(p, run_few(p, m.mask));
    }
    const mask_case mixed = any_composition(g, masks, 2);
    p.visible = mixed.visible;
    for (const auto& c : every_score_change<float>(g, n, p.offset)) {
      CAPTURE(round, mixed.name, c.name);
      p.change = c.truth;
      check_few(p, run_few(p, mixed.mask, c.library));
    }
  }
}

TEST_CASE("biases of any type and order") {
  generator g(304);
  auto p = any_problem<float>(g, {5, 700, 8, 5});
  Eigen::MatrixXd bias = any_matrix<Eigen::MatrixXd>(g, 5, 700);
  bias.col(3).setConstant(-std::numeric_limits<double>::infinity());
  bias.row(4).setConstant(-std::numeric_limits<double>::infinity());
  p.bias = [&](place at) { return bias(at.row, at.key); };
  check_few(p, run_few(p, attn::as_mask(bias)));
  const Eigen::MatrixXf one = bias.cast<float>();
  p.bias = [&](place at) { return double{one(at.row, at.key)}; };
  check_few(p, run_few(p, attn::as_mask(one)));
  p.bias = [&](place at) { return 2 * double{one(at.row, at.key)}; };
  check_few(p, run_few(p, attn::additive_mask(attn::detail::hold(one)) & one));
}

// A row that does not see what is awful keeps its bits, beside rows that do.
TEST_CASE("hidden is inert, and what is seen shows") {
  generator g(305);
  for (const index keys : {200, 1500}) {
    auto p = any_problem<float>(g, {6, keys, 8, 5});
    p.offset = keys - 6;
    const auto masks = every_mask(g, 6, keys);
    for (const mask_case& m : masks) {
      p.visible = m.visible;
      const auto sound = run_few(p, m.mask);
      const index j = keys - g.between(1, 8);
      for (const float poison : {nan, infinity, -infinity, 3e38f}) {
        for (const bool in_key : {true, false}) {
          CAPTURE(m.name, keys, j, poison, in_key);
          auto bad = p;
          (in_key ? bad.k(j, 2) : bad.v(j, 2)) = poison;
          const auto o = run_few(bad, m.mask);
          for (index i = 0; i < 6; ++i) {
            const bool sees = m.visible(place{i, i + p.offset, j});
            CAPTURE(i);
            if (!sees) {
              CHECK(same_bits(sound.out.row(i), o.out.row(i)));
              CHECK(same_bits(sound.log_sum_exp.row(i), o.log_sum_exp.row(i)));
            } else if (in_key && std::isnan(poison)) {
              CHECK(all_nan(o.out, i));
              CHECK(std::isnan(o.log_sum_exp(i)));
            }
          }
          if (!in_key && !std::isnan(poison)) CHECK(expect(bad).against(o.out) == "");
        }
      }
    }
  }
}

TEST_CASE("numbers of any size") {
  generator g(306);
  auto p = any_problem<float>(g, {3, 1100, 4, 3});
  p.v *= 3e38f;
  check_few(p, run_few(p));
  p.v.setConstant(3e38f);  // sums overflow before they are divided
  check_few(p, run_few(p));
  p = any_problem<float>(g, {3, 1100, 4, 3});
  p.q *= 1e4f;
  check_few(p, run_few(p));
  p.q *= 1e26f;
  check_few(p, run_few(p));
  p = any_problem<float>(g, {2, 1100, 4, 3});
  p.k.row(1099).setConstant(60);  // one key that comes last has all the weight
  p.q.setConstant(10);
  check_few(p, run_few(p));
}

// The scale multiplies the finished product, also where it has a part beyond whole vectors.
TEST_CASE("a large scale") {
  generator g(310);
  auto p = any_problem<float>(g, {1, 130, 20, 3});
  p.q.setZero();
  p.k.setZero();
  p.q(0, 0) = p.q(0, 16) = 1e5f;
  p.k.col(0).setConstant(1e5f);
  p.k.col(16).setConstant(-1e5f);
  p.scale = 1e30;
  check_few(p, run_few(p));
}

TEST_CASE("reproducible calls have the bits of many queries") {
  generator g(307);
  auto p = any_problem<float>(g, {40, 700, 12, 9});
  const auto whole = run_few(p, attn::causal(), attn::identity(), true);
  problem<float> part = p;
  part.q = p.q.middleRows(30, 3);
  part.offset = 30;
  CHECK(same_bits(run_few(part, attn::causal(), attn::identity(), true).out,
                  whole.out.middleRows(30, 3)));
  part.q = p.q;
  part.offset = 0;
  CHECK(same_bits(run_few(part, attn::causal()).out, whole.out));
}

// A row's bits depend neither on the rows, heads and sequences beside it nor on threads.
TEST_CASE("one row or many, one head or a group, the bits are the same") {
  generator g(308);
  const index keys = 2100, d = 24;
  attn::heads_array<float> q({2, 6, 3, d}), k({2, 2, keys, d}), v({2, 2, keys, d});
  for (auto* array : {&q, &k, &v}) {
    for (index i = 0; i < array->shape().size(); ++i) {
      array->data()[i] = static_cast<float>(g.uniform());
    }
  }
  const attn::options options{.alignment = attn::bottom_right};
  const auto whole = attn::scaled_dot_product_attention(q, k, v, attn::causal(), options);
  for (index b = 0; b < 2; ++b) {
    for (index h = 0; h < 6; ++h) {
      const auto head = attn::scaled_dot_product_attention(
          q.head(b, h), k.head(b, h / 3), v.head(b, h / 3), attn::causal(), options);
      CHECK(same_bits(head, whole.head(b, h)));
      for (index i = 0; i < 3; ++i) {
        const auto row = attn::scaled_dot_product_attention(
            q.head(b, h).middleRows(i, 1), k.head(b, h / 3), v.head(b, h / 3), attn::causal(),
            {.alignment = attn::offset(keys - 3 + i)});
        CHECK(same_bits(row, whole.head(b, h).middleRows(i, 1)));
      }
    }
  }
  for (const int threads : {2, 3}) {
    auto threaded = options;
    threaded.executor = attn::std_threads(threads);
    const auto again = attn::scaled_dot_product_attention(q, k, v, attn::causal(), threaded);
    for (index n = 0; n < again.shape().size(); ++n) {
      REQUIRE(again.data()[n] == whole.data()[n]);
    }
  }
}

// What a user's function reads ends exactly at the matrix's edge.
TEST_CASE("functions are not called outside the matrix") {
  generator g(309);
  for (const index keys : {129, 143, 1025}) {
    auto p = any_problem<float>(g, {3, keys, 4, 3});
    std::vector<float> table(static_cast<std::size_t>(3 * keys));
    for (float& x : table) x = static_cast<float>(g.uniform());
    const auto look = [&](attn::position at) {
      REQUIRE((at.row >= 0 && at.row < 3 && at.key >= 0 && at.key < keys));
      return table[static_cast<std::size_t>(at.row * keys + at.key)];
    };
    p.change = [&](auto s, place at) {
      return s + static_cast<decltype(s)>(table[static_cast<std::size_t>(at.row * keys + at.key)]);
    };
    p.visible = [&](place at) {
      return table[static_cast<std::size_t>(at.row * keys + at.key)] < 0.7f;
    };
    check_few(p, run_few(p, attn::predicate([&](attn::position at) { return look(at) < 0.7f; }),
                         [&](float s, attn::position at) { return s + look(at); }));
  }
}

}  // namespace
}  // namespace attn_test
