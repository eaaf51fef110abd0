// Rotary embedding does what its formula says: for every scalar, layout and way to tell positions,
// far away, and with frequencies and tables of the user's.
#include "unit/rotary.hpp"

namespace attn_test {
namespace {

template <class T>
void agrees_with_the_formula(std::uint64_t seed) {
  generator g(seed);
  // Pairs are worked on 64 at once.
  const std::vector<index> widths{2, 4, 6, 64, 126, 128, 130, 256, 260};
  for (int repeat = 0; repeat < 10; ++repeat) {
    const heads_shape n{g.between(1, 3), g.between(1, 3), g.between(1, 5), g.one_of(widths)};
    const double base = g.one_of(std::vector<double>{10000, 500000, 1, 2.5});
    for (const rotary_layout layout : both_layouts) {
      for (const placement& placed : every_placement(g, n, -50, 3000)) {
        const auto before = any_heads<T>(g, n,
                                         repeat % 2 == 0 ? heads_order::bhld  //
                                                         : heads_order::blhd);
        auto after = before;
        rotary_embedding({.base = base, .layout = layout})(after, placed.given(placed));
        CHECK(difference<T>(before.view(), after.view(), by_base(base, n.width, layout, placed)) ==
              "");
        const index part = 2 * g.between(1, n.width / 2);
        after = before;
        rotary_embedding({.base = base, .layout = layout, .width = part})(after.view(),
                                                                          placed.given(placed));
        CHECK(difference<T>(before.view(), after.view(), by_base(base, part, layout, placed)) ==
              "");
      }
    }
  }
}

TEST_CASE("every scalar, layout and way to tell positions agrees with the formula") {
  SECTION("float") { agrees_with_the_formula<float>(301); }
  SECTION("double") { agrees_with_the_formula<double>(302); }
  SECTION("half") { agrees_with_the_formula<Eigen::half>(303); }
  SECTION("bfloat16") { agrees_with_the_formula<Eigen::bfloat16>(304); }
}

TEST_CASE("rotary embedding by numbers") {
  const Eigen::RowVector4d row(1, 2, 3, 4);
  // Position 1, base 10000: pair 0 turns by 1, pair 1 by 0.01.
  const double cos_0 = 0.5403023058681398, sin_0 = 0.8414709848078965;
  const double cos_1 = 0.9999500004166653, sin_1 = 0.009999833334166664;
  Eigen::RowVector4d x = row;
  rotary_embedding()(x, {.offset = 1});
  CHECK(x.isApprox(Eigen::RowVector4d(cos_0 - 3 * sin_0, 2 * cos_1 - 4 * sin_1, sin_0 + 3 * cos_0,
                                      2 * sin_1 + 4 * cos_1),
                   1e-15));
  x = row;
  rotary_embedding({.layout = rotary_layout::interleaved})(x, {.offset = 1});
  CHECK(x.isApprox(Eigen::RowVector4d(cos_0 - 2 * sin_0, sin_0 + 2 * cos_0, 3 * cos_1 - 4 * sin_1,
                                      3 * sin_1 + 4 * cos_1),
                   1e-15));
}

template <class T>
void agrees_far_away(std::uint64_t seed) {
  generator g(seed);
  const heads_shape n{2, 2, 4, 64};
  for (const index offset : {farthest - 3, -farthest, index{1} << 24, index{123456789}}) {
    const placement placed{{}, {}, {}, [=](index, index i) { return offset + i; }};
    for (const rotary_layout layout : both_layouts) {
      const auto before = any_heads<T>(g, n);
      auto after = before;
      rotary_embedding({.layout = layout})(after, {.offset = offset});
      CHECK(difference<T>(before.view(), after.view(), by_base(10000, 64, layout, placed)) == "");
    }
  }
}

TEST_CASE("positions as far as 2^31 are right") {
  agrees_far_away<float>(305);
  agrees_far_away<double>(306);
  Eigen::RowVector2d x(1, 0);
  rotary_embedding()(x, {.offset = farthest});
  const bool narrow = sizeof(index) == 4;  // 2^31 - 2 instead of 2^31
  CHECK(x(0) == Approx(narrow ? -0.982176300549272 : 0.2378161945728034).margin(1e-15));
  CHECK(x(1) == Approx(narrow ? 0.1879620031797547 : -0.9713101757929393).margin(1e-15));
}

TEST_CASE("frequencies of one's own take the place of the base") {
  generator g(307);
  const heads_shape n{2, 3, 5, 10};
  const std::vector<double> frequencies{1, 0.25, -0.5, 0};
  for (const rotary_layout layout : both_layouts) {
    for (const placement& placed : every_placement(g, n, -1000, 1000)) {
      const rotation r{.width = 8, .layout = layout, .cos_sin = [&](index b, index i, index c) {
                         const long double angle = static_cast<long double>(placed.at(b, i)) *
                                                   frequencies[static_cast<std::size_t>(c)];
                         return std::array{std::cos(angle), std::sin(angle)};
                       }};
      const auto before = any_heads<float>(g, n);
      auto after = before;
      rotary_embedding({.frequencies = frequencies, .layout = layout})(after, placed.given(placed));
      CHECK(difference<float>(before.view(), after.view(), r) == "");
      auto again = before;
      rotary_embedding({.frequencies = frequencies, .layout = layout, .width = 8})(
          again, placed.given(placed));
      CHECK(same(after, again));
    }
  }
}

template <class T, class Table>
void agrees_with_tables(generator& g) {
  for (const index pairs : {1, 4, 64, 70}) {
    const heads_shape n{2, 2, 3, 2 * pairs + 2};
    // Numbers of any size: nothing may rely on their being cosines.
    const Table cos = any_matrix<Table>(g, 20, pairs), sin = any_matrix<Table>(g, 20, pairs);
    for (const rotary_layout layout : both_layouts) {
      for (const placement& placed : every_placement(g, n, 0, 19)) {
        const rotation r{
            .width = 2 * pairs, .layout = layout, .cos_sin = [&](index b, index i, index c) {
              const index p = placed.at(b, i);
              return std::array{static_cast<long double>(static_cast<double>(cos(p, c))),
                                static_cast<long double>(static_cast<double>(sin(p, c)))};
            }};
        const auto before = any_heads<T>(g, n);
        auto after = before;
        attn::apply_rotary(after, cos, sin, placed.given(placed), layout);
        CHECK(difference<T>(before.view(), after.view(), r) == "");
      }
    }
  }
}

TEST_CASE("cosines and sines from tables of any type") {
  generator g(308);
  agrees_with_tables<float, Eigen::MatrixXf>(g);
  agrees_with_tables<float, matrix<double>>(g);
  agrees_with_tables<double, Eigen::ArrayXXf>(g);
  agrees_with_tables<Eigen::half, matrix<float>>(g);
  agrees_with_tables<Eigen::bfloat16, matrix<Eigen::bfloat16>>(g);
}

TEST_CASE("tables may be views and expressions") {
  generator g(309);
  const Eigen::MatrixXf angles = any_matrix<Eigen::MatrixXf>(g, 9, 3);
  const Eigen::MatrixXf cos = angles.array().cos(), sin = angles.array().sin();
  const auto x = any_matrix<Eigen::MatrixXf>(g, 4, 6);
  auto expected = x, found = x;
  attn::apply_rotary(expected, cos, sin, {.offset = 2});
  const auto agrees = [&](const auto& cosines, const auto& sines, index offset) {
    found = x;
    attn::apply_rotary(found, cosines, sines, {.offset = offset});
    CHECK((found - expected).cwiseAbs().maxCoeff() <= 4 * tolerance::eps<float>());
  };
  agrees(angles.array().cos(), angles.array().sin(), 2);
  agrees(cos.bottomRows(7), sin.middleRows(2, 7), 0);
  const Eigen::MatrixXf turned = cos.transpose();
  agrees(turned.transpose(), Eigen::Ref<const Eigen::MatrixXf>(sin), 2);
  CHECK(found != x);
}

}  // namespace
}  // namespace attn_test
