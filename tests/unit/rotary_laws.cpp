// Laws of rotary embedding, what it leaves alone, and every kind of memory it turns.
#include <algorithm>
#include <limits>
#include <numeric>

#include "unit/rotary.hpp"

namespace attn_test {
namespace {

TEST_CASE("a score depends on how far apart query and key stand, and on nothing else") {
  generator g(310);
  const index d = 64;
  for (const rotary_layout layout : both_layouts) {
    const rotary_embedding rotary({.layout = layout});
    const auto q = any_matrix<matrix<double>>(g, 1, d), k = any_matrix<matrix<double>>(g, 1, d);
    const auto score = [&](index query, index key) {
      auto turned_q = q, turned_k = k;
      rotary(turned_q, {.offset = query});
      rotary(turned_k, {.offset = key});
      return attn::score(turned_q, turned_k)(0, 0);
    };
    // d products, each of a query and a key that err by some eps and by their angles.
    const auto allowed = [&](index position) {
      return (8 + static_cast<double>(std::abs(position))) * 2 * tolerance::eps<double>() * d;
    };
    for (const index distance : {0, 1, -7, 400}) {
      const double at_0 = score(distance, 0);
      for (const index shift : {1, 17, -300, 100000}) {
        CHECK(score(distance + shift, shift) == Approx(at_0).margin(allowed(400 + shift)));
      }
      CHECK(std::abs(score(distance + 1, 0) - at_0) > 1e-3);
    }
  }
}

TEST_CASE("turning keeps norms") {
  generator g(311);
  for (const rotary_layout layout : both_layouts) {
    const auto x = any_matrix<matrix<double>>(g, 30, 48);
    auto turned = x;
    rotary_embedding({.layout = layout})(turned, {.offset = 12345});
    CHECK(turned.rowwise().norm().isApprox(x.rowwise().norm(), 4 * tolerance::eps<double>()));
    CHECK((turned - x).rowwise().norm().minCoeff() > 0.1);
  }
}

template <class T>
void position_0_changes_nothing(generator& g) {
  for (const rotary_layout layout : both_layouts) {
    const auto x = any_heads<T>(g, {2, 3, 2, 12});
    auto turned = x;
    const std::vector<int> ids{0, 0};
    const rotary_embedding rotary({.layout = layout});
    rotary(turned, {.ids = ids});
    CHECK(same(turned, x));
    rotary(turned);
    CHECK(turned.view().tokens(0, 1).head(1, 2) == x.view().tokens(0, 1).head(1, 2));
    CHECK(turned.view().tokens(1, 1).head(1, 2) != x.view().tokens(1, 1).head(1, 2));
  }
}

TEST_CASE("position 0 changes nothing") {
  generator g(312);
  position_0_changes_nothing<float>(g);
  position_0_changes_nothing<double>(g);
  position_0_changes_nothing<Eigen::half>(g);
  position_0_changes_nothing<Eigen::bfloat16>(g);
}

TEST_CASE("the layouts are one another with the columns in another order") {
  generator g(313);
  const index d = 20, w = 14;
  std::vector<index> order(d);  // column order[n] of the one is column n of the other
  std::iota(order.begin(), order.end(), index{0});
  for (index c = 0; c < w / 2; ++c) {
    order[static_cast<std::size_t>(2 * c)] = c;
    order[static_cast<std::size_t>(2 * c + 1)] = c + w / 2;
  }
  Eigen::MatrixXd halves = any_matrix<Eigen::MatrixXd>(g, 9, d);
  const auto in_order = [&] { return Eigen::MatrixXd(halves(Eigen::seq(0, 8), order)); };
  Eigen::MatrixXd neighbours = in_order();
  rotary_embedding({.width = w})(halves, {.offset = 77});
  CHECK(!neighbours.isApprox(in_order(), 1e-3));
  rotary_embedding({.layout = rotary_layout::interleaved, .width = w})(neighbours, {.offset = 77});
  CHECK(neighbours.isApprox(in_order(), 4 * tolerance::eps<double>()));
}

TEST_CASE("columns beyond the width are left alone, whatever they hold") {
  generator g(314);
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  constexpr float infinity = std::numeric_limits<float>::infinity();
  for (const rotary_layout layout : both_layouts) {
    const auto x = any_matrix<Eigen::MatrixXf>(g, 5, 9);
    auto spoiled = x;
    spoiled.col(6).setConstant(nan);
    spoiled.col(7).setConstant(infinity);
    auto turned = spoiled, whole = Eigen::MatrixXf(x.leftCols(6));
    rotary_embedding({.layout = layout, .width = 6})(turned, {.offset = 1});
    rotary_embedding({.layout = layout})(whole, {.offset = 1});
    CHECK(turned.leftCols(6) == whole);
    CHECK(whole != x.leftCols(6));
    CHECK(turned.col(6).array().isNaN().all());
    CHECK((turned.col(7).array() == infinity).all());
    CHECK(turned.col(8) == x.col(8));
  }
}

TEST_CASE("the inverse turns back") {
  generator g(315);
  for (const rotary_layout layout : both_layouts) {
    const rotary_embedding rotary({.base = 500, .layout = layout, .width = 10});
    const auto x = any_matrix<matrix<double>>(g, 6, 12);
    auto turned = x, back = x;
    rotary(turned, {.offset = 40});
    back = turned;
    rotary.inverse()(back, {.offset = 40});
    CHECK(back.isApprox(x, 4 * tolerance::eps<double>()));
    CHECK(!turned.isApprox(x, 0.1));
    rotary.inverse().inverse()(back, {.offset = 40});
    CHECK(back.isApprox(turned, 4 * tolerance::eps<double>()));
    // Where a token has moved by n, turning it on by n is the same as turning it there at once.
    const std::vector<int> moved(6, -33);
    auto there = x;
    rotary(turned, {.ids = moved});
    rotary(there, {.offset = 7});
    CHECK(turned.isApprox(there, 1e-13));
  }
}

TEST_CASE("both orders of memory give the same bits") {
  generator g(316);
  const heads_shape n{3, 4, 5, 32};
  auto x = any_heads<float>(g, n);
  heads_array<float> y(n, heads_order::blhd);
  for (index b = 0; b < n.batch; ++b) {
    for (index h = 0; h < n.heads; ++h) y.head(b, h) = x.head(b, h);
  }
  const std::vector<int> offsets{4, 90, 4};
  const auto before = x;
  rotary_embedding()(x, {.offsets = offsets});
  rotary_embedding()(y, {.offsets = offsets});
  CHECK(same(x, y));
  CHECK(!same(x, before));
  // A sequence and a head alone, too.
  const auto alone = before.head(1, 2);
  Eigen::MatrixXf head = alone;
  rotary_embedding()(head, {.offset = 90});
  CHECK((head - y.head(1, 2)).cwiseAbs().maxCoeff() <= 4 * tolerance::eps<float>());
}

TEST_CASE("views with any strides, and nothing written between their elements") {
  generator g(317);
  const heads_shape n{2, 3, 4, 6};
  const placement placed{{}, {}, {}, [](index, index i) { return 5 + i; }};
  const auto agrees = [&](index start, const attn::heads_strides& strides) {
    std::vector<float> memory(1000, 7.0f);
    const heads_view<float> x(memory.data() + start, n, strides);
    fill(g, x);
    heads_array<float> before(n);
    for (index b = 0; b < n.batch; ++b) {
      for (index h = 0; h < n.heads; ++h) before.head(b, h) = x.head(b, h);
    }
    for (const rotary_layout layout : both_layouts) {
      auto start_of = before;
      for (index b = 0; b < n.batch; ++b) {
        for (index h = 0; h < n.heads; ++h) x.head(b, h) = before.head(b, h);
      }
      rotary_embedding({.layout = layout})(x, {.offset = 5});
      CHECK(difference<float>(start_of.view(), x, by_base(10000, n.width, layout, placed)) == "");
    }
    for (index b = 0; b < n.batch; ++b) {
      for (index h = 0; h < n.heads; ++h) x.head(b, h).setConstant(7);
    }
    CHECK(std::count(memory.begin(), memory.end(), 7.0f) == std::ssize(memory));
  };
  agrees(0, {72, 24, 6, 1});
  agrees(3, {300, 12, 40, 2});        // heads side by side, every second feature
  agrees(11, {1, 2, 6, 24});          // a column of memory a feature
  agrees(900, {-300, -90, -20, -3});  // backwards
}

TEST_CASE("matrices of every kind are one head") {
  generator g(318);
  const auto x = any_matrix<Eigen::MatrixXf>(g, 4, 6);
  const placement placed{{}, {}, {}, [](index, index i) { return 9 + i; }};
  const rotation r = by_base(10000, 6, rotary_layout::half_split, placed);
  const rotary_embedding rotary;
  const auto agrees = [&](const Eigen::MatrixXf& turned) {
    CHECK(difference<float>(attn::one_head(x), attn::one_head(turned), r) == "");
  };
  Eigen::MatrixXf a = x;
  rotary(a, {.offset = 9});
  agrees(a);
  matrix<float> row_major = x;
  rotary(row_major, {.offset = 9});
  agrees(row_major);
  Eigen::Matrix<float, 4, 6> fixed = x;
  rotary(fixed, {.offset = 9});
  agrees(fixed);
  Eigen::ArrayXXf array = x;
  rotary(array, {.offset = 9});
  agrees(array);
  a = x;
  rotary(Eigen::Map<Eigen::MatrixXf>(a.data(), 4, 6), {.offset = 9});
  agrees(a);
  a = x;
  rotary(Eigen::Ref<Eigen::MatrixXf>(a), {.offset = 9});
  agrees(a);
  a = x.transpose();
  rotary(a.transpose(), {.offset = 9});
  agrees(a.transpose());
  a = Eigen::MatrixXf::Constant(6, 9, 7);
  a.block(1, 2, 4, 6) = x;
  rotary(a.block(1, 2, 4, 6), {.offset = 9});
  agrees(a.block(1, 2, 4, 6));
  a.block(1, 2, 4, 6).setConstant(7);
  CHECK((a.array() == 7).all());
  for (index i = 0; i < 4; ++i) {  // token by token, as they are decoded
    a = x;
    rotary(a.row(i), {.offset = 9 + i});
    rotary(a.topRows(i), {.offset = 9});
    rotary(a.bottomRows(3 - i), {.offset = 10 + i});
    agrees(a);
  }
}

}  // namespace
}  // namespace attn_test
