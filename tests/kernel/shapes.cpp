// Every length and width around the edges of tiles and vectors, long rows, and the same bits for a
// row however it is cut out, whatever the mask that says the same.
#include <attn/block_mask.hpp>

#include "unit/laws.hpp"

namespace attn_test {
namespace {

const attn::identity unchanged;

template <class Scalar>
void check_shape(generator& g, const shape& n) {
  INFO(n.queries << " queries, " << n.keys << " keys, widths " << n.d << " and " << n.dv);
  const auto p = any_problem<Scalar>(g, n);
  check_against(expect(p), run(one_call(), p));
}

TEST_CASE("every number of queries and keys from 0 to 200") {
  generator g(201);
  for (index n = 0; n <= 200; ++n) {
    check_shape<float>(g, {n, 37, 8, 5});
    check_shape<float>(g, {5, n, 8, 5});
    check_shape<double>(g, {n, 9, 4, 3});
    check_shape<double>(g, {3, n, 4, 3});
  }
}

TEST_CASE("every width from 1 to 130, and common ones") {
  generator g(202);
  for (index d = 1; d <= 130; ++d) {
    check_shape<float>(g, {18, 9, d, 6});
    check_shape<float>(g, {18, 9, 6, d});
    check_shape<double>(g, {9, 9, d, d});
  }
  for (const index d : {192, 256, 512}) {
    check_shape<float>(g, {50, 70, d, d});
    check_shape<double>(g, {25, 70, d, d});
  }
}

TEST_CASE("sums over many tiles do not drift") {
  generator g(203);
  check_shape<float>(g, {2, 30000, 4, 3});
}

TEST_CASE("the first tile after many hidden ones is seen") {
  const Eigen::MatrixXf q = Eigen::MatrixXf::Ones(10, 2), k = Eigen::MatrixXf::Ones(4200, 2);
  const Eigen::MatrixXf v = Eigen::MatrixXf::Random(4200, 3);
  const Eigen::MatrixXf out = attn::scaled_dot_product_attention(q, k, v, attn::sliding_window(0),
                                                                 {.alignment = attn::offset(4096)});
  CHECK(out == v.middleRows(4096, 10));
}

void check_cuts(const problem<float>& p, const std::vector<std::pair<index, index>>& cuts) {
  const auto whole = run(one_call(), p, attn::causal(), unchanged);
  for (const auto& [first, rows] : cuts) {
    problem<float> part = p;
    part.q = p.q.middleRows(first, rows);
    part.offset = p.offset + first;
    const auto cut = run(one_call(), part, attn::causal(), unchanged);
    CHECK(same_bits(cut.out, whole.out.middleRows(first, rows)));
    CHECK(same_bits(cut.weights, whole.weights.middleRows(first, rows)));
    CHECK(same_bits(cut.log_sum_exp, whole.log_sum_exp.segment(first, rows)));
  }
  CHECK(same_bits(whole, run(one_call(), p, attn::causal(), unchanged, attn::std_threads(3))));
}

TEST_CASE("rows cut out of a call, and any executor, keep the bits") {
  generator g(204);
  check_cuts(any_problem<float>(g, {120, 300, 20, 12}),
             {{0, 1}, {119, 1}, {5, 17}, {40, 33}, {60, 60}});
  check_cuts(any_problem<float>(g, {300, 200, 40, 36}), {{0, 32}, {5, 50}, {260, 40}, {33, 150}});
}

// Tiles that are skipped, cut short, looked at or not looked at give the same bits.
TEST_CASE("masks that say the same give the same bits") {
  generator g(205);
  for (const shape& n : {shape{130, 300, 16, 9}, shape{130, 128, 16, 9}, shape{130, 40, 16, 9},
                         shape{130, 170, 32, 33}}) {
    const index keys = n.keys;
    const auto p = any_problem<float>(g, n);
    const auto near = [](attn::index i, attn::index j) { return j - i <= 3 && i - j <= 30; };
    boolean_matrix visible(130, keys);
    for (index i = 0; i < 130; ++i) {
      for (index j = 0; j < keys; ++j) visible(i, j) = near(i + p.offset, j);
    }
    const Eigen::Matrix<bool, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> by_rows = visible;
    const Eigen::Matrix<bool, Eigen::Dynamic, Eigen::Dynamic, Eigen::ColMajor> by_columns = visible;
    const auto tiled = attn::block_mask(near, 130, keys, attn::offset(p.offset));

    const auto window = run(one_call(), p, attn::sliding_window(30, 3), unchanged);
    CHECK(same_bits(window, run(one_call(), p, attn::predicate(near), unchanged)));
    CHECK(same_bits(window, run(one_call(), p, tiled, unchanged)));
    CHECK(same_bits(window, run(one_call(), p, attn::as_mask(by_rows), unchanged)));
    CHECK(same_bits(window, run(one_call(), p, attn::as_mask(by_columns), unchanged)));
  }
}

// Large enough for whole squares of lanes, and not a whole number of them.
template <class Element, int Order>
void check_bias() {
  generator g(206);
  for (const shape& n : {shape{100, 150, 8, 5}, shape{33, 65, 8, 5}, shape{20, 290, 8, 5}}) {
    auto p = any_problem<float>(g, n);
    Eigen::Matrix<Element, Eigen::Dynamic, Eigen::Dynamic, Order> bias(n.queries, n.keys);
    for (index i = 0; i < n.queries; ++i) {
      for (index j = 0; j < n.keys; ++j) {
        const bool hidden = (i * 7 + j * 3) % 5 == 0;
        bias(i, j) = hidden ? -std::numeric_limits<Element>::infinity()
                            : static_cast<Element>(static_cast<float>((i + 2 * j) % 9) / 4);
      }
    }
    p.bias = [&](place at) { return static_cast<double>(bias(at.row, at.key)); };
    check_against(expect(p), run(one_call(), p, attn::as_mask(bias), unchanged));
    // Where a score is not finite, hidden pairs stay hidden, with one bias and with two.
    p.k.row(3).setConstant(std::numeric_limits<float>::infinity());
    const auto expected = expect(p);
    const Eigen::MatrixXf zero = Eigen::MatrixXf::Zero(1, n.keys);
    for (const auto& o : {run(one_call(), p, attn::as_mask(bias), unchanged),
                          run(one_call(), p, attn::as_mask(bias) & zero, unchanged)}) {
      CHECK(expected.against(o.out) == "");
      CHECK(expected.against_log_sum_exp(o.log_sum_exp) == "");
    }
  }
}

TEST_CASE("additive masks of any type and order") {
  check_bias<float, Eigen::RowMajor>();
  check_bias<float, Eigen::ColMajor>();
  check_bias<double, Eigen::RowMajor>();
  check_bias<Eigen::half, Eigen::RowMajor>();
}

TEST_CASE("block_mask is for one shape and alignment") {
  const auto mask = attn::block_mask([](auto i, auto j) { return i >= j; }, 4, 6, attn::top_left);
  const Eigen::MatrixXf q = Eigen::MatrixXf::Ones(4, 2), k = Eigen::MatrixXf::Ones(6, 2);
  CHECK_NOTHROW(attn::scaled_dot_product_attention(q, k, k, mask, {.alignment = attn::top_left}));
  CHECK_THROWS_WITH(
      attn::scaled_dot_product_attention(q, k, k, mask, {.alignment = attn::bottom_right}),
      "block_mask is for offset 0, the call's alignment gives 2 (where lengths move it: give the "
      "mask itself)");
  CHECK_THROWS_WITH(attn::scaled_dot_product_attention(k, k, k, mask),
                    "block_mask is for 4 queries and 6 keys, the call has 6 and 6");
}

}  // namespace
}  // namespace attn_test
