// What rotary embedding takes and what it refuses, before anything is written; it allocates
// nothing.
#include "support/allocations.hpp"
// It comes before what it counts.
#include <algorithm>
#include <limits>
#include <span>
#include <stdexcept>

#include "unit/rotary.hpp"

namespace attn_test {
namespace {

template <class X>
constexpr bool turnable = attn::detail::Turnable<X>;
static_assert(turnable<Eigen::MatrixXf&> && turnable<Eigen::Block<Eigen::MatrixXf>> &&
              turnable<heads_array<float>&> && turnable<heads_view<float>>);
static_assert(!turnable<const Eigen::MatrixXf&> && !turnable<Eigen::Block<const Eigen::MatrixXf>> &&
              !turnable<const heads_array<float>&> && !turnable<heads_array<float>> &&
              !turnable<heads_view<const float>>);

TEST_CASE("a part of nothing is nothing") {
  const rotary_embedding rotary;
  for (const heads_shape& n :
       {heads_shape{0, 2, 3, 4}, {2, 0, 3, 4}, {2, 2, 0, 4}, {2, 2, 3, 0}, {0, 0, 0, 0}}) {
    heads_array<float> x(n);
    rotary(x, {.offset = 3});
    attn::apply_rotary(x, Eigen::MatrixXf(9, n.width / 2), Eigen::MatrixXf(9, n.width / 2));
    CHECK(x.shape().size() == 0);
  }
  heads_array<float> no_tokens({2, 2, 0, 4});
  rotary(no_tokens, {.ids = std::vector<int>()});
  attn::apply_rotary(no_tokens, Eigen::MatrixXf(0, 2), Eigen::MatrixXf(0, 2));
  Eigen::MatrixXf x = Eigen::MatrixXf::Ones(2, 4);
  attn::apply_rotary(x, Eigen::MatrixXf(9, 0), Eigen::MatrixXf(9, 0));
  CHECK(x.isOnes(0));
}

TEST_CASE("turning allocates nothing") {
  generator g(319);
  auto array = any_heads<float>(g, {3, 4, 50, 256});
  const heads_view<float> x = array.view();
  Eigen::MatrixXd y = Eigen::MatrixXd::Ones(70, 40);
  const std::vector<int> offsets{3, 1, 4}, ids(150, 9);
  const Eigen::MatrixXf cos = Eigen::MatrixXf::Ones(60, 100), sin = 2 * cos;
  const rotary_embedding whole, part({.width = 200});
  CHECK(allocations_of([&] { whole(x); }) == 0);
  CHECK(allocations_of([&] { part(x, {.offsets = offsets}); }) == 0);
  CHECK(allocations_of([&] { part(x, {.ids = ids}); }) == 0);
  CHECK(allocations_of([&] { whole(y.leftCols(20)); }) == 0);
  CHECK(allocations_of([&] { attn::apply_rotary(x, cos, sin, {.offset = 2}); }) == 0);
  CHECK(allocations_of([&] {
          attn::apply_rotary(y, cos.leftCols(9), sin.leftCols(9),
                             {.ids = std::span(ids).first(70)});
        }) == 0);
  CHECK(allocations_of([&] { rotary_embedding({.width = 200})(x); }) > 0);  // its frequencies
}

// What a call is refused with.
template <class F>
std::string refusal(const F& call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "accepted";
}

TEST_CASE("options that mean nothing") {
  const auto of = [](const attn::rotary_options& options) {
    return refusal([&] { rotary_embedding rotary(options); });
  };
  CHECK(of({.width = 7}) ==
        "rotary_options.width is 7, it should be an even number and at least 2");
  CHECK(of({.width = 0}) ==
        "rotary_options.width is 0, it should be an even number and at least 2");
  CHECK(of({.width = -2}) ==
        "rotary_options.width is -2, it should be an even number and at least 2");
  CHECK(of({.base = 0}) == "rotary_options.base is 0, it should be from 1e-30 to 1e30");
  CHECK(of({.base = -1e4}) == "rotary_options.base is -10000, it should be from 1e-30 to 1e30");
  CHECK(of({.base = std::nan("")}) ==
        "rotary_options.base is nan, it should be from 1e-30 to 1e30");
  CHECK(of({.base = HUGE_VAL}) == "rotary_options.base is inf, it should be from 1e-30 to 1e30");
  CHECK(of({.frequencies = {1, std::nan("")}}) ==
        "rotary_options.frequencies has nan, they should be from -1e30 to 1e30");
  CHECK(of({.frequencies = {-HUGE_VAL}}) ==
        "rotary_options.frequencies has -inf, they should be from -1e30 to 1e30");
  CHECK(of({.frequencies = {1, 2, 3}, .width = 4}) ==
        "rotary_options.frequencies has 3 numbers, for width 4 it should have 2");
  CHECK(of({.frequencies = {1, 2, 3}, .width = 6}) == "accepted");
  CHECK(of({.base = 1e-30, .width = 2}) == "accepted");
}

// Whatever is refused leaves x as it was.
TEST_CASE("calls that don't fit are refused, and nothing is written") {
  generator g(320);
  const auto before = any_heads<float>(g, {2, 3, 4, 6});
  const rotary_embedding rotary, half_of_it({.width = 2});
  const auto of = [&](const rotary_embedding& r, const rotary_positions& positions) {
    auto x = before;
    const std::string message = refusal([&] { r(x, positions); });
    CHECK(same(x, before) == (message != "accepted"));
    return message;
  };
  CHECK(of(rotary_embedding({.width = 8}), {}) ==
        "x has 6 columns, the rotary embedding has width 8, it should be at most that");
  Eigen::MatrixXf odd = Eigen::MatrixXf::Ones(2, 5);
  CHECK(refusal([&] { rotary(odd); }) ==
        "x has 5 columns, it should have an even number or rotary_options.width be given");
  CHECK(odd.isOnes(0));
  CHECK(refusal([&] { half_of_it(odd); }) == "accepted");

  using list = std::vector<std::int64_t>;
  for (const rotary_embedding& r : {rotary, half_of_it}) {
    CHECK(of(r, {.ids = list(3)}) ==
          "positions.ids has 3 numbers, it should have 4, one a token, or that for each of 2 "
          "sequences");
    CHECK(of(r, {.ids = list(0)}) ==
          "positions.ids has 0 numbers, it should have 4, one a token, or that for each of 2 "
          "sequences");
    CHECK(of(r, {.offsets = list(4)}) ==
          "positions.offsets has 4 numbers, it should have 2, one a sequence");
    const std::string several =
        "positions have more than one of ids, offset and offsets, they should have one";
    CHECK(of(r, {.ids = list(8), .offset = 1}) == several);
    CHECK(of(r, {.offset = 1, .offsets = list(2)}) == several);
    CHECK(of(r, {.ids = list(8), .offsets = list(2)}) == several);

    const std::string reach = ": positions reach to 2^31 either way";
    CHECK(of(r, {.offset = farthest - 2}) == "positions.offset is " + std::to_string(farthest - 2) +
                                                 ", for a length of 4 it should be from -" +
                                                 std::to_string(farthest) + " to " +
                                                 std::to_string(farthest - 3) + reach);
    CHECK(of(r, {.offset = std::numeric_limits<index>::max()}) != "accepted");
    CHECK(of(r, {.offset = std::numeric_limits<index>::min()}) != "accepted");
    CHECK(of(r, {.offset = farthest - 3}) == "accepted");
    CHECK(of(r, {.offsets = list{5, -farthest - 1}}) ==
          "positions.offsets[1] is -" + std::to_string(farthest + 1) +
              ", for a length of 4 it should be from -" + std::to_string(farthest) + " to " +
              std::to_string(farthest - 3) + reach);
    CHECK(of(r, {.ids = list{1, 2, 3, farthest + 1}}) ==
          "positions.ids[3] is " + std::to_string(farthest + 1) +
              ", for a length of 1 it should be from -" + std::to_string(farthest) + " to " +
              std::to_string(farthest) + reach);
    CHECK(of(r, {.ids = list{1, 2, 3, farthest}}) == "accepted");
    const std::int64_t beyond = (std::int64_t{1} << 32) + 1;  // would be 1 in 32 bits
    CHECK(of(r, {.ids = list{1, 2, 3, beyond}}) != "accepted");
    CHECK(of(r, {.ids = list{1, 2, 3, -beyond}}) != "accepted");
  }
}

TEST_CASE("tables that don't fit are refused, and nothing is written") {
  generator g(321);
  const auto before = any_heads<float>(g, {2, 3, 4, 6});
  const auto of = [&](index rows, index cols, const rotary_positions& positions,
                      index more_rows = 0, index more_cols = 0) {
    auto x = before;
    const Eigen::MatrixXf cos = Eigen::MatrixXf::Zero(rows, cols);
    const Eigen::MatrixXf sin = Eigen::MatrixXf::Ones(rows + more_rows, cols + more_cols);
    const std::string message = refusal([&] { attn::apply_rotary(x, cos, sin, positions); });
    CHECK(same(x, before) == (message != "accepted"));
    return message;
  };
  CHECK(of(9, 3, {}, 1) == "sin is 10 x 3, it should be 9 x 3 as cos is");
  CHECK(of(9, 3, {}, 0, -1) == "sin is 9 x 2, it should be 9 x 3 as cos is");
  CHECK(of(9, 4, {}) == "cos and sin have 4 columns, they should have at most half of the 6 of x");
  const std::string rows = ": cos and sin have a row a position";
  CHECK(of(3, 3, {}) ==
        "positions.offset is 0, for a length of 4 it should be from 0 to -1" + rows);
  CHECK(of(9, 3, {.offset = 6}) ==
        "positions.offset is 6, for a length of 4 it should be from 0 to 5" + rows);
  CHECK(of(9, 3, {.offset = 5}) == "accepted");
  CHECK(of(9, 3, {.offset = -1}) ==
        "positions.offset is -1, for a length of 4 it should be from 0 to 5" + rows);
  CHECK(of(9, 3, {.offsets = std::vector<int>{0, 6}}) ==
        "positions.offsets[1] is 6, for a length of 4 it should be from 0 to 5" + rows);
  CHECK(of(9, 3, {.ids = std::vector<int>{0, 1, 9, 2}}) ==
        "positions.ids[2] is 9, for a length of 1 it should be from 0 to 8" + rows);
  CHECK(of(9, 3, {.ids = std::vector<int>{0, 1, 8, 2}}) == "accepted");
}

TEST_CASE("elements that lie on one another are refused") {
  std::vector<float> memory(200, 1.0f);
  const heads_shape n{2, 3, 4, 6};
  const std::string message = "x has elements that lie on one another, each would be turned again";
  const auto of = [&](const heads_shape& shape, const attn::heads_strides& strides) {
    const heads_view<float> x(memory.data(), shape, strides);
    const Eigen::MatrixXf table = Eigen::MatrixXf::Zero(9, 3);
    const std::string found = refusal([&] { rotary_embedding()(x); });
    CHECK(refusal([&] { attn::apply_rotary(x, table, table); }) == found);
    return found;
  };
  CHECK(of(n, {0, 24, 6, 1}) == message);
  CHECK(of(n, {72, 0, 6, 1}) == message);
  CHECK(of(n, {72, 24, 0, 1}) == message);
  CHECK(of(n, {72, 24, 6, 0}) == message);
  CHECK(of(n, {72, 24, 5, 1}) == message);
  CHECK(std::count(memory.begin(), memory.end(), 1.0f) == std::ssize(memory));
  CHECK(of({1, 3, 4, 6}, {0, 24, 6, 1}) == "accepted");
  CHECK(of({2, 1, 1, 6}, {72, 0, 0, 1}) == "accepted");
}

}  // namespace
}  // namespace attn_test
