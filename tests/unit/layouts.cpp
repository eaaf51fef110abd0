// Layouts: any Eigen expression of one scalar type goes in, without a copy by the user.
#include "unit/expressions.hpp"

namespace attn_test {
namespace {

TEST_CASE("row-major and column-major, in every combination") {
  generator g(181);
  for (const shape n : {shape{5, 7, 4, 3}, {70, 90, 16, 9}, {1, 9, 8, 8}, {6, 1, 1, 1}}) {
    const auto [q, k, v] = any_sample(g, n);
    const row_major rq = q, rk = k, rv = v;
    CHECK(difference(q, k, v) == "");
    CHECK(difference(q, k, rv) == "");
    CHECK(difference(q, rk, v) == "");
    CHECK(difference(q, rk, rv) == "");
    CHECK(difference(rq, k, v) == "");
    CHECK(difference(rq, k, rv) == "");
    CHECK(difference(rq, rk, v) == "");
    CHECK(difference(rq, rk, rv) == "");
  }
}

TEST_CASE("views: Map with strides, Block, Ref, transpose, reverse") {
  generator g(182);
  const auto [q, k, v] = any_sample(g, {6, 9, 4, 3});
  // Heads side by side in one row a token, as a projection leaves them; every second feature.
  std::vector<float> memory;
  for (int n = 0; n < 2000; ++n) memory.push_back(static_cast<float>(g.uniform()));
  using strided = Eigen::Map<const row_major, Eigen::Unaligned, Eigen::OuterStride<>>;
  using doubly = Eigen::Map<const column_major, Eigen::Unaligned, Eigen::Stride<Dynamic, Dynamic>>;
  const strided head(memory.data() + 5, 6, 4, Eigen::OuterStride<>(24));
  const doubly sparse(memory.data() + 1, 9, 4, Eigen::Stride<Dynamic, Dynamic>(50, 3));
  const doubly backwards(memory.data() + 900, 9, 3, Eigen::Stride<Dynamic, Dynamic>(60, 2));
  CHECK(difference(head, sparse, backwards) == "");

  CHECK(difference(q.topRows(2), k.leftCols(4), v.middleCols(1, 2)) == "");
  CHECK(difference(q.block(1, 0, 4, 2), k.block(2, 1, 5, 2), v.block(3, 0, 5, 1)) == "");
  CHECK(difference(q.row(2), k.bottomRows(3), v.bottomRows(3)) == "");
  const column_major kt = k.transpose();
  CHECK(difference(q, kt.transpose(), v) == "");
  const Eigen::Ref<const column_major> ref = q;
  const Eigen::Ref<const column_major, 0, Eigen::OuterStride<>> ref_of_block = k.topRows(5);
  CHECK(difference(ref, ref_of_block, Eigen::Ref<const row_major>(v.topRows(5))) == "");
  CHECK(difference(q.rowwise().reverse(), k.rowwise().reverse(), v) == "");
  // Vectors, and parts of them: one feature, or one query.
  const Eigen::VectorXf column = q.col(0), keys = k.col(0);
  CHECK(difference(column, keys, v) == "");
  CHECK(difference(column.head(4), keys.tail(5), v.col(0).segment(1, 5)) == "");
  const Eigen::RowVectorXf row = q.row(0);
  CHECK(difference(row, k, v) == "");
  CHECK(difference(row.head(2), k.leftCols(2), v) == "");
}

TEST_CASE("arrays and expressions that have to be computed") {
  generator g(183);
  const auto [q, k, v] = any_sample(g, {6, 9, 4, 3});
  const column_major w = any_matrix<column_major>(g, 4, 4);
  const Eigen::ArrayXXf array = q.array();
  CHECK(difference(array, k, v.array()) == "");
  CHECK(difference(2 * q, k + k, v - 0.5f * v) == "");
  CHECK(difference(q * w, k * w, v) == "");  // the projections, as a user writes them
  CHECK(difference(q.cwiseAbs(), k.array().square(), v.array() * 2) == "");
  CHECK(difference(column_major::Ones(3, 2), column_major::Zero(4, 2),
                   column_major::Constant(4, 5, 2)) == "");
  const auto every_other = [](const column_major& m) {
    return m(Eigen::seq(0, m.rows() - 1, 2), Eigen::seq(0, m.cols() - 1));
  };
  CHECK(difference(every_other(q), every_other(k), every_other(v)) == "");
  const Eigen::MatrixXd d = q.cast<double>();
  CHECK(difference(d.cast<float>(), k, v) == "");
}

}  // namespace
}  // namespace attn_test
