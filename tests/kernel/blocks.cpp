// Problems of many queries, keys and columns, which go through whole blocks: the definition, every
// mask and score change, and what numbers at the ends of the range do to their own rows and no
// others.
#include <attn/block_mask.hpp>

#include "unit/laws.hpp"

namespace attn_test {
namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();
const attn::identity unchanged;

shape any_large_shape(generator& g) {
  return {g.between(32, 290), g.between(32, 150), g.between(32, 100), g.between(32, 100)};
}

TEST_CASE("large problems are what the definition says") {
  generator g(301);
  for (int repeat = 0; repeat < 12; ++repeat) {
    const shape n = any_large_shape(g);
    INFO(n.queries << " queries, " << n.keys << " keys, widths " << n.d << " and " << n.dv);
    auto p = any_problem<float>(g, n);
    if (g.chance(0.3)) p.sink = 1.5;
    if (g.chance(0.3)) p.scale = g.uniform();
    p.offset = g.one_of(std::vector<index>{0, n.keys - n.queries, 7});
    const auto masks = every_mask(g, n.queries, n.keys);
    const mask_case& c = masks[static_cast<std::size_t>(repeat) % masks.size()];
    INFO(c.name);
    p.visible = c.visible;
    const auto changes = every_score_change<float>(g, n, p.offset);
    const auto& change = changes[static_cast<std::size_t>(repeat) % changes.size()];
    check_against(expect(p), run(one_call(), p, c.mask));
    INFO(change.name);
    p.change = change.truth;
    check_against(expect(p), run(one_call(), p, c.mask, change.library));
  }
}

TEST_CASE("columns and lengths around whole steps") {
  generator g(302);
  for (const index n : {32, 33, 47, 48, 49, 63, 64, 65, 95, 96, 97, 128, 129}) {
    for (const shape& size :
         {shape{n, 40, 32, 32}, shape{40, n, 32, 32}, shape{40, 40, n, 32}, shape{40, 40, 32, n}}) {
      INFO(size.queries << " x " << size.keys << ", " << size.d << " and " << size.dv);
      const auto p = any_problem<float>(g, size);
      check_against(expect(p), run(one_call(), p));
    }
  }
}

TEST_CASE("every layout of a large problem") {
  generator g(303);
  const auto p = any_problem<float>(g, {70, 90, 40, 50});
  const auto expected = expect(p);
  using by_rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using strides = Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>;
  const by_rows q = p.q, k = p.k, v = p.v;
  CHECK(expected.against(attn::scaled_dot_product_attention(q, k, v)) == "");
  const Eigen::MatrixXf q2 = p.q, k2 = p.k, v2 = p.v;
  CHECK(expected.against(attn::scaled_dot_product_attention(q2, k2, v2)) == "");
  CHECK(expected.against(attn::scaled_dot_product_attention(q, k2, v)) == "");
  CHECK(expected.against(attn::scaled_dot_product_attention(q2, k, v2)) == "");
  std::vector<float> wide(static_cast<std::size_t>(3 * 90 * 50));
  for (index j = 0; j < 90; ++j) {
    for (index c = 0; c < 50; ++c) wide[static_cast<std::size_t>(3 * (50 * j + c))] = v(j, c);
  }
  const Eigen::Map<const by_rows, 0, strides> apart(wide.data(), 90, 50, strides(150, 3));
  CHECK(expected.against(attn::scaled_dot_product_attention(q, k, apart)) == "");
}

TEST_CASE("queries that see nothing of a tile between others that do") {
  generator g(308);
  auto p = any_problem<float>(g, {200, 100, 40, 40});
  for (const index every : {2, 3}) {
    const auto some = [every](attn::index i, attn::index j) {
      return (i / 32 + j / 32) % every == 0;
    };
    p.visible = [&](place at) { return some(at.query, at.key); };
    const auto tiles = attn::block_mask(some, 200, 100, attn::top_left);
    check_against(expect(p), run(one_call(), p, tiles, unchanged));
  }
}

// Rows in groups that see keys of their own next to each other, and tell so exactly.
struct runs_of_keys {
  index group;
  std::vector<std::pair<index, index>> seen;  // the first key and the end, of each group

  [[nodiscard]] bool sees(index row, index key) const {
    const auto& [first, end] = seen[static_cast<std::size_t>(row / group)];
    return first <= key && key < end;
  }
  [[nodiscard]] bool visible(const attn::position& at) const { return sees(at.row, at.key); }
  [[nodiscard]] attn::coverage cover(const attn::tile& t) const {
    bool some = false, all = true;
    for (index i = t.row / group; i <= (t.row + t.rows - 1) / group; ++i) {
      const auto& [first, end] = seen[static_cast<std::size_t>(i)];
      some = some || (first < t.key + t.keys && t.key < end);
      all = all && first <= t.key && t.key + t.keys <= end;
    }
    return all ? attn::coverage::all : some ? attn::coverage::some : attn::coverage::none;
  }
};

TEST_CASE("each few queries may see other keys of a tile") {
  generator g(309);
  for (int repeat = 0; repeat < 40; ++repeat) {
    const shape n{g.between(1, 130), g.between(1, 300), 19, 21};
    runs_of_keys mask{g.one_of(std::vector<index>{1, 4, 8, 16, 24, 48}), {}};
    for (index row = 0; row < n.queries; row += mask.group) {
      const index first = g.between(0, n.keys), end = g.between(0, n.keys);
      mask.seen.emplace_back(std::min(first, end), std::max(first, end));
    }
    INFO(n.queries << " x " << n.keys << ", alike by " << mask.group);
    auto p = any_problem<float>(g, n);
    p.visible = [&](place at) { return mask.sees(at.row, at.key); };
    check_against(expect(p), run(one_call(), p, mask, unchanged));
    const Eigen::MatrixXf bias = any_matrix<Eigen::MatrixXf>(g, n.queries, n.keys);
    p.bias = [&](place at) { return double{bias(at.row, at.key)}; };
    check_against(expect(p), run(one_call(), p, attn::as_mask(bias) & mask, unchanged));
  }
}

// Each number in one place of the keys or values, which some rows see.
TEST_CASE("numbers at the ends of the range reach the rows that see them") {
  generator g(306);
  auto p = any_problem<float>(g, {70, 80, 40, 40});
  p.visible = [](place at) { return at.key <= at.query; };
  const auto sound = run(one_call(), p, attn::causal(), unchanged);
  const index j = 37;
  for (const float x : {nan, infinity, -infinity, 3e38f, -1e20f, 1e13f, 1e-30f, 1e-44f}) {
    CAPTURE(x);
    auto bad = p;
    bad.k(j, 11) = x;
    auto o = run(one_call(), bad, attn::causal(), unchanged);
    CHECK(expect(bad).against(o.out) == "");
    CHECK(same_bits(o.out.topRows(j), sound.out.topRows(j)));
    CHECK(same_bits(o.log_sum_exp.head(j), sound.log_sum_exp.head(j)));
    bad = p;
    bad.v(j, 39) = x;
    o = run(one_call(), bad, attn::causal(), unchanged);
    CHECK(expect(bad).against(o.out) == "");
    CHECK(same_bits(o.out.topRows(j), sound.out.topRows(j)));
    CHECK(same_bits(o.out.leftCols(39), sound.out.leftCols(39)));
    CHECK(same_bits(o.weights, sound.weights));
    bad = p;
    bad.q(j, 5) = x;
    o = run(one_call(), bad, attn::causal(), unchanged);
    check_against(expect(bad), o);
    for (index i = 0; i < 70; ++i) {
      if (i != j) CHECK(same_bits(o.out.row(i), sound.out.row(i)));
    }
  }
}

TEST_CASE("large problems of tiny, large and overflowing numbers") {
  generator g(307);
  for (const float size : {1e-38f, 1e-33f, 1e-28f, 1e-20f, 1e20f, 1e30f, 3e38f}) {
    CAPTURE(size);
    auto p = any_problem<float>(g, {50, 60, 36, 40}, 1.0);
    p.v *= size;
    check_against(expect(p), run(one_call(), p));
    p = any_problem<float>(g, {50, 60, 36, 40}, 1.0);
    p.q *= size;
    p.scale = 0.25 / std::max(static_cast<double>(size), 1e-37);
    check_against(expect(p), run(one_call(), p));
    p.q /= size;
    p.k *= size;
    check_against(expect(p), run(one_call(), p));
  }
}

}  // namespace
}  // namespace attn_test
