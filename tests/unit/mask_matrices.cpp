// Masks given as matrices: any form that an Eigen matrix can take.
#include "unit/laws.hpp"

namespace attn_test {
namespace {

using Eigen::Dynamic;

TEST_CASE("mask matrices of any layout") {
  generator g(187);
  problem<float> p = any_problem<float>(g, {6, 9, 4, 3});
  const boolean_matrix visible = any_boolean(g, 6, 9);
  p.visible = [&](place at) { return visible(at.row, at.key); };
  const auto attend = [&](auto&& mask) {
    return attn::scaled_dot_product_attention(p.q, p.k, p.v, std::forward<decltype(mask)>(mask));
  };
  const auto expected = expect(p);
  const matrix<bool> rows = visible;
  const Eigen::Array<bool, Dynamic, Dynamic> array = visible.array();
  const boolean_matrix transposed = visible.transpose();
  boolean_matrix larger = boolean_matrix::Constant(9, 12, false);
  larger.block(1, 2, 6, 9) = visible;
  const std::vector<char> bytes(rows.data(), rows.data() + rows.size());
  const Eigen::Matrix<bool, 6, 9> fixed_size = visible;
  CHECK(expected.against(attend(rows)) == "");
  CHECK(expected.against(attend(array)) == "");
  CHECK(expected.against(attend(transposed.transpose())) == "");
  CHECK(expected.against(attend(larger.block(1, 2, 6, 9))) == "");
  CHECK(expected.against(attend(Eigen::Map<const matrix<bool>>(rows.data(), 6, 9))) == "");
  CHECK(expected.against(attend(Eigen::Map<const matrix<char>>(bytes.data(), 6, 9).array() != 0)) ==
        "");
  CHECK(expected.against(attend(fixed_size)) == "");
  CHECK(expected.against(attend(boolean_matrix(visible))) == "");
  CHECK(expected.against(attend(attn::as_mask(rows) & attn::none())) == "");

  // One row for all queries: a vector's part is a matrix like any other, not a function of (p, j).
  const Eigen::Matrix<bool, 1, Dynamic> row = any_boolean(g, 1, 12);
  const Eigen::RowVectorXf bias = any_matrix<Eigen::RowVectorXf>(g, 1, 12);
  p.visible = [&](place at) { return row(at.key + 2); };
  CHECK(expect(p).against(attend(row.segment(2, 9))) == "");
  CHECK(expect(p).against(attend(row.middleCols(2, 9))) == "");
  p.visible = [&](place at) { return row(at.key); };
  CHECK(expect(p).against(attend(row.head(9))) == "");
  p.visible = nullptr;
  p.bias = [&](place at) { return static_cast<double>(bias(at.key + 3)); };
  CHECK(expect(p).against(attend(bias.tail(9))) == "");
  CHECK(expect(p).against(attend(bias.segment<9>(3))) == "");
  CHECK(expect(p).against(attend(attn::none() & bias.tail(9))) == "");
}

// Large enough for whole vectors of rows and of keys, with ends left over.
template <class Number>
void every_layout(generator& g, shape n, const Eigen::Matrix<Number, Dynamic, Dynamic>& elements,
                  problem<float> p) {
  const auto agrees = [&](const auto& mask) {
    p.offset = g.between(-9, 9);
    const auto without = p.visible;
    const auto expected = expect(p);
    CHECK(expected.against(attn::scaled_dot_product_attention(p.q, p.k, p.v, mask)) == "");
    outcome<float> o = run(one_call(), p, attn::as_mask(mask), attn::identity());
    check_against(expected, o);
    p.visible = [without](place at) { return at.key <= at.query && (!without || without(at)); };
    o = run(one_call(), p, attn::causal() & mask, attn::identity());
    check_against(expect(p), o);
    p.visible = without;
  };
  INFO(n.queries << " queries, " << n.keys << " keys");
  const matrix<Number> rows = elements;
  matrix<Number> wide_rows = matrix<Number>::Zero(elements.rows() + 3, n.keys + 5);
  wide_rows.block(2, 3, elements.rows(), n.keys) = elements;
  Eigen::Matrix<Number, Dynamic, Dynamic> wide_columns = wide_rows;
  const Eigen::Matrix<Number, Dynamic, Dynamic> transposed = elements.transpose();
  agrees(elements);
  agrees(rows);
  agrees(wide_rows.block(2, 3, elements.rows(), n.keys));
  agrees(wide_columns.block(2, 3, elements.rows(), n.keys));
  agrees(transposed.transpose());
  const auto sparse = std::make_unique<Number[]>(static_cast<std::size_t>(6 * elements.size()));
  Eigen::Map<matrix<Number>, 0, Eigen::Stride<Dynamic, Dynamic>> map(
      sparse.get(), elements.rows(), n.keys, Eigen::Stride<Dynamic, Dynamic>(2 * 3 * n.keys, 3));
  map = elements;
  agrees(map);
}

const std::vector<shape>& large_shapes() {
  static const std::vector<shape> shapes{{16, 16, 2, 2}, {50, 70, 3, 2}, {129, 130, 2, 1},
                                         {48, 64, 2, 3}, {1, 100, 2, 2}, {100, 1, 2, 2},
                                         {33, 15, 2, 2}, {17, 47, 2, 2}};
  return shapes;
}

TEST_CASE("large additive matrices in every layout") {
  generator g(188);
  for (const shape n : large_shapes()) {
    for (const index rows : {n.queries, index{1}}) {
      problem<float> p = any_problem<float>(g, n);
      Eigen::MatrixXf bias = any_matrix<Eigen::MatrixXf>(g, rows, n.keys);
      for (index m = 0; m < bias.size() / 3; ++m) {
        bias(g.between(0, rows - 1), g.between(0, n.keys - 1)) =
            -std::numeric_limits<float>::infinity();
      }
      p.bias = [&](place at) { return static_cast<double>(bias(rows == 1 ? 0 : at.row, at.key)); };
      every_layout(g, n, bias, p);
      if (rows == n.queries) {
        const Eigen::MatrixXd wide_bias = bias.cast<double>();
        every_layout(g, n, wide_bias, p);
      }
    }
  }
}

TEST_CASE("large boolean matrices in every layout") {
  generator g(189);
  for (const shape n : large_shapes()) {
    for (const index rows : {n.queries, index{1}}) {
      problem<float> p = any_problem<float>(g, n);
      const boolean_matrix visible = any_boolean(g, rows, n.keys);
      p.visible = [&](place at) { return visible(rows == 1 ? 0 : at.row, at.key); };
      every_layout(g, n, visible, p);
    }
  }
}

TEST_CASE("a temporary reference that owns its copy is kept whole") {
  generator g(175);
  auto p = any_problem<float>(g, {5, 8, 4, 3});
  const Eigen::MatrixXf bias = any_matrix<Eigen::MatrixXf>(g, 5, 8);
  const auto mask = attn::as_mask(Eigen::Ref<const Eigen::MatrixXf>(2 * bias));
  p.bias = [&](place at) { return 2.0 * static_cast<double>(bias(at.row, at.key)); };
  check_against(expect(p), run(one_call(), p, mask, attn::identity()));
}

TEST_CASE("a finite bias beyond float does not hide") {
  const Eigen::MatrixXf q = Eigen::MatrixXf::Zero(1, 2);
  const Eigen::MatrixXf v = (Eigen::MatrixXf(2, 1) << 1, 3).finished();
  const Eigen::MatrixXf k = Eigen::MatrixXf::Zero(2, 2);
  const Eigen::MatrixXd lowest =
      Eigen::MatrixXd::Constant(1, 2, std::numeric_limits<double>::lowest());
  CHECK(attn::scaled_dot_product_attention(q, k, v, lowest)(0, 0) == 2);
  CHECK(attn::weighted_sum(attn::softmax(attn::apply_mask(attn::score(q, k), lowest)), v)(0, 0) ==
        2);
}

TEST_CASE("what one mask hides stays hidden, however large the bias of another") {
  generator g(177);
  for (const shape n : {shape{50, 70, 3, 2}, shape{5, 300, 4, 3}}) {
    const auto p = any_problem<float>(g, n);
    const boolean_matrix visible = any_boolean(g, n.queries, n.keys);
    Eigen::MatrixXf hides = Eigen::MatrixXf::Zero(n.queries, n.keys);
    Eigen::MatrixXf raises = hides;
    for (index i = 0; i < n.queries; ++i) {
      for (index j = 0; j < n.keys; ++j) {
        if (visible(i, j)) continue;
        hides(i, j) = -std::numeric_limits<float>::infinity();
        raises(i, j) = std::numeric_limits<float>::infinity();
      }
    }
    const matrix<float> raises_rows = raises;
    const auto attend = [&](const auto& mask) {
      return attn::scaled_dot_product_attention(p.q, p.k, p.v, mask);
    };
    const auto check = [&](const auto& first, const auto& second) {
      const auto expected = attend(first);
      CHECK(attend(attn::as_mask(first) & attn::as_mask(second)) == expected);
      CHECK(attend(attn::as_mask(second) & attn::as_mask(first)) == expected);
    };
    check(hides, raises);
    check(hides, raises_rows);
    check(visible, raises);
    check(visible, raises_rows);
  }
}

// A type of the user's with both a bias and a rule of what is visible.
struct leaning_causal {
  [[nodiscard]] bool visible(attn::position at) const { return at.key <= at.query; }
  [[nodiscard]] float bias(attn::position at) const {
    return 0.25F * static_cast<float>(at.key % 3);
  }
  [[nodiscard]] attn::coverage cover(attn::tile t) const { return attn::causal().cover(t); }
};

TEST_CASE("a mask of the user's may have a bias and hide as well") {
  generator g(176);
  for (const index n : {9, 70, 150}) {
    auto p = any_problem<float>(g, {n, n, 8, 5});
    p.visible = [](place at) { return at.key <= at.query; };
    p.bias = [](place at) { return 0.25 * static_cast<double>(at.key % 3); };
    check_against(expect(p), run(one_call(), p, leaning_causal(), attn::identity()));
    check_against(expect(p), run(one_call(), p, leaning_causal() & attn::none(), attn::identity()));
  }
}

}  // namespace
}  // namespace attn_test
