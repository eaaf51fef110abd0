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

}  // namespace
}  // namespace attn_test
