// Sizes known at compile time: results that keep them, and the storage order of results.
#include "unit/expressions.hpp"

namespace attn_test {
namespace {

template <int Rows, int Cols, int Options = Eigen::ColMajor>
using fixed = Eigen::Matrix<float, Rows, Cols, Options>;

TEST_CASE("fixed, bounded and dynamic sizes") {
  generator g(184);
  const auto [q, k, v] = any_sample(g, {6, 9, 4, 3});
  const fixed<6, 4> fq = q;
  const fixed<9, 4, Eigen::RowMajor> fk = k;
  const fixed<9, 3> fv = v;
  CHECK(difference(fq, fk, fv) == "");
  CHECK(difference(q, fk, v) == "");
  CHECK(difference(fq, k, v) == "");
  CHECK(difference(fixed<6, Dynamic>(q), fixed<Dynamic, 4>(k), fixed<Dynamic, 3>(v)) == "");
  using bounded = Eigen::Matrix<float, Dynamic, Dynamic, Eigen::ColMajor, 10, 5>;
  CHECK(difference(bounded(q), bounded(k), bounded(v)) == "");
  CHECK(difference(bounded(q), k, fv) == "");
  CHECK(difference(fq.topRows<2>(), fk.bottomRows<3>(), fv.topRows<3>()) == "");
  CHECK(difference(fq.row(1), fk.row(2), fv.row(3)) == "");
}

template <class Expected, class Found>
constexpr bool is = std::is_same_v<Expected, Found>;

template <class Q, class K, class V>
using result = decltype(attn::scaled_dot_product_attention(
    std::declval<const Q&>(), std::declval<const K&>(), std::declval<const V&>()));

// The storage order of the query; fixed where sizes are fixed.
static_assert(is<column_major, result<column_major, row_major, row_major>>);
static_assert(is<row_major, result<row_major, column_major, column_major>>);
static_assert(is<row_major, result<Eigen::Transpose<column_major>, column_major, column_major>>);
static_assert(is<row_major, result<Eigen::Map<row_major>, column_major, column_major>>);
static_assert(is<column_major, result<Eigen::ArrayXXf, column_major, column_major>>);
static_assert(is<fixed<4, 3>, result<fixed<4, 8>, fixed<6, 8>, fixed<6, 3>>>);
static_assert(is<fixed<4, 3, Eigen::RowMajor>,
                 result<fixed<4, 8, Eigen::RowMajor>, fixed<6, 8>, fixed<6, 3>>>);
static_assert(is<fixed<4, Dynamic>, result<fixed<4, 8>, column_major, column_major>>);
static_assert(is<fixed<Dynamic, 3>, result<column_major, column_major, fixed<6, 3>>>);
static_assert(is<Eigen::MatrixXd, result<Eigen::MatrixXd, Eigen::MatrixXd, Eigen::MatrixXd>>);
// One column lies as Eigen has vectors lie, and so does one row.
static_assert(is<fixed<4, 1>, result<fixed<4, 8, Eigen::RowMajor>, fixed<6, 8>, fixed<6, 1>>>);
static_assert(is<Eigen::VectorXf, result<row_major, row_major, Eigen::VectorXf>>);
static_assert(is<fixed<1, 3, Eigen::RowMajor>,
                 result<fixed<1, 8, Eigen::RowMajor>, fixed<6, 8>, fixed<6, 3>>>);
static_assert(is<Eigen::RowVectorXf, result<Eigen::RowVectorXf, column_major, column_major>>);
static_assert(is<fixed<1, 1, Eigen::RowMajor>,
                 result<fixed<1, 8, Eigen::RowMajor>, fixed<6, 8>, fixed<6, 1>>> ||
              is<fixed<1, 1>, result<fixed<1, 8, Eigen::RowMajor>, fixed<6, 8>, fixed<6, 1>>>);
// 128 KiB is what Eigen lets on the stack: 256 x 128 floats, and not a row more.
static_assert(is<fixed<256, 128>, result<fixed<256, 4>, fixed<8, 4>, fixed<8, 128>>>);
static_assert(result<fixed<257, 4>, fixed<8, 4>, fixed<8, 128>>::SizeAtCompileTime == Dynamic);
static_assert(result<fixed<256, 4>, fixed<8, 4>, fixed<8, 129>>::SizeAtCompileTime == Dynamic);
// The stages as well.
static_assert(is<fixed<4, 6>, decltype(attn::score(fixed<4, 8>(), fixed<6, 8>()))>);
static_assert(is<fixed<4, 6>, decltype(attn::softmax(fixed<4, 6>()))>);
static_assert(is<fixed<4, 1>, decltype(attn::log_sum_exp(fixed<4, 6>()))>);
static_assert(is<fixed<4, 3>, decltype(attn::weighted_sum(fixed<4, 6>(), fixed<6, 3>()))>);

// Fixed inputs whose scores or result are too large for the stack.
TEST_CASE("large fixed sizes go to the heap where Eigen would refuse the stack") {
  generator g(185);
  const auto [q, k, v] = any_sample(g, {257, 200, 4, 130});
  const fixed<257, 4> fq = q;
  const fixed<200, 4> fk = k;
  const fixed<200, 130> fv = v;
  CHECK(difference(fq, fk, fv) == "");
  const fixed<257, 3> narrow = q.leftCols(3);
  CHECK(difference(narrow, narrow, narrow) == "");
}

TEST_CASE("a vector for one feature of value, a row for one query") {
  generator g(186);
  const auto [q, k, v] = any_sample(g, {6, 9, 4, 1});
  const row_major rq = q;
  const Eigen::VectorXf values = v;
  CHECK(difference(rq, k, values) == "");
  const fixed<6, 4, Eigen::RowMajor> fq = q;
  const fixed<9, 1> fv = v;
  CHECK(difference(fq, k, fv) == "");
  const Eigen::RowVector4f one = q.row(0);
  CHECK(difference(one, k, fv) == "");
}

}  // namespace
}  // namespace attn_test
