// Results in the caller's memory: any layout, nothing allocated with a workspace, no overlap.
#include "support/allocations.hpp"
// It comes before what it counts.
#include <attn/attention.hpp>

#include "unit/laws.hpp"

namespace attn_test {
namespace {

TEST_CASE("into any layout") {
  generator g(211);
  for (const shape& n : {shape{70, 50, 16, 16}, shape{3, 5, 4, 2}, shape{100, 9, 20, 35}}) {
    const auto p = any_problem<float>(g, n);
    const Eigen::MatrixXf expected =
        attn::scaled_dot_product_attention(p.q, p.k, p.v, {.scale = p.scale});

    Eigen::MatrixXf resized;
    attn::scaled_dot_product_attention_into(resized, p.q, p.k, p.v);
    CHECK(resized == expected);
    // A head among others, in memory that starts at no multiple of a vector.
    std::vector<float> memory(static_cast<std::size_t>(n.queries * n.dv * 3 + 1), 5.0F);
    for (const index row_stride : {3 * n.dv, index{1}}) {
      const index col_stride = row_stride == 1 ? n.queries : 1;
      using stride = Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>;
      Eigen::Map<Eigen::MatrixXf, 0, stride> map(memory.data() + 1, n.queries, n.dv,
                                                 stride(col_stride, row_stride));
      attn::scaled_dot_product_attention_into(map, p.q, p.k, p.v);
      CHECK(map == expected);
      map.setConstant(5.0F);
      CHECK(std::ranges::count(memory, 5.0F) == std::ssize(memory));
    }
  }
}

TEST_CASE("heads side by side in one matrix, read and written in place") {
  generator g(212);
  Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> packed =
      any_matrix<matrix<float>>(g, 60, 32, 1.0);
  const auto q = packed.leftCols(8), k = packed.middleCols(8, 8), v = packed.middleCols(16, 8);
  const Eigen::MatrixXf expected = attn::scaled_dot_product_attention(q, k, v, attn::causal());
  attn::scaled_dot_product_attention_into(packed.rightCols(8), q, k, v, attn::causal());
  CHECK(packed.rightCols(8) == expected);
}

TEST_CASE("a call with a workspace allocates nothing") {
  generator g(213);
  const auto p = any_problem<float>(g, {300, 200, 64, 64});
  Eigen::MatrixXf out(300, 64);
  Eigen::VectorXf lse(300);
  attn::workspace workspace;
  const auto call = [&] {
    attn::scaled_dot_product_attention_into(
        out, p.q, p.k, p.v, attn::sliding_window(50), attn::softcap(5),
        {.alignment = attn::top_left, .log_sum_exp = lse, .workspace = &workspace});
  };
  CHECK(allocations_of(call) > 0);
  CHECK(allocations_of(call) == 0);
  CHECK(workspace.bytes() == attn::plan_of(p.q, p.k, p.v).workspace_bytes);
}

TEST_CASE("memory to work in does not grow with the lengths") {
  const auto bytes = [](index length, index d) {
    const Eigen::MatrixXf m(length, d);
    return attn::plan_of(m, m, m).workspace_bytes;
  };
  CHECK(bytes(1000, 64) == bytes(200, 64));
  CHECK(bytes(1000, 128) <= 256 * 1024);
  CHECK_FALSE(attn::plan_of(Eigen::Matrix<long double, 2, 2>(), Eigen::Matrix<long double, 2, 2>(),
                            Eigen::Matrix<long double, 2, 2>())
                  .fused);
}

TEST_CASE("what cannot be written to is refused and untouched") {
  using attn::scaled_dot_product_attention_into;
  Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> m(6, 12);
  m.setConstant(3);
  const Eigen::MatrixXf other = Eigen::MatrixXf::Ones(6, 4);
  const auto before = m;
  CHECK_THROWS_WITH(
      scaled_dot_product_attention_into(m.leftCols(4), m.middleCols(2, 4), other, other),
      "out overlaps query in memory: it would be written while that is read");
  CHECK_THROWS_WITH(scaled_dot_product_attention_into(m.leftCols(4), other, m.leftCols(4), other),
                    "out overlaps key in memory: it would be written while that is read");
  CHECK_THROWS_WITH(scaled_dot_product_attention_into(m.leftCols(4), other, other, m.leftCols(4)),
                    "out overlaps value in memory: it would be written while that is read");
  CHECK_THROWS_WITH(scaled_dot_product_attention_into(m.leftCols(3), other, other, other),
                    "out has 6 rows and 3 columns, it should have 6 and 4");
  Eigen::MatrixXd wide;
  CHECK_THROWS_WITH(scaled_dot_product_attention_into(wide, other, other, other),
                    "out has elements of type double, they should be float");
  CHECK_THROWS_WITH(scaled_dot_product_attention_into(attn::output(), other, other, other),
                    "out is nothing: it should be a matrix or view to write to");
  using stride = Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>;
  Eigen::Map<Eigen::MatrixXf, 0, stride> folded(m.data(), 6, 4, stride(1, 2));
  CHECK_THROWS_WITH(scaled_dot_product_attention_into(folded, other, other, other),
                    "out has strides with which its elements overlap");
  CHECK(m == before);
  CHECK(wide.size() == 0);
  // A matrix that would be resized is looked at as it is.
  Eigen::MatrixXf key = Eigen::MatrixXf::Ones(6, 4);
  const Eigen::MatrixXf query = Eigen::MatrixXf::Ones(9, 4);
  CHECK_THROWS_WITH(scaled_dot_product_attention_into(key, query, key, other),
                    "out overlaps key in memory: it would be written while that is read");
  CHECK(key == other);
}

TEST_CASE("a single row in a buffer that is shared, without a byte in common") {
  Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> all(6, 16);
  all.setRandom();
  const Eigen::MatrixXf before = all;
  const auto query = all.block(2, 0, 1, 4), key = all.middleCols(4, 4);
  const auto value = all.middleCols(8, 4);
  const Eigen::MatrixXf expected = attn::scaled_dot_product_attention(query, key, value);
  attn::scaled_dot_product_attention_into(all.block(2, 12, 1, 4), query, key, value);
  CHECK(all.block(2, 12, 1, 4) == expected);
  CHECK(all.leftCols(12) == before.leftCols(12));
  for (const index column : {2, 5, 7, 11}) {  // partly or wholly on what is read
    CHECK_THROWS_AS(
        attn::scaled_dot_product_attention_into(all.block(2, column, 1, 4), query, key, value),
        std::invalid_argument);
  }
}

TEST_CASE("outputs that share memory with one another or with an input") {
  Eigen::MatrixXf m = Eigen::MatrixXf::Ones(4, 12);
  const Eigen::MatrixXf before = m;
  const Eigen::MatrixXf q = Eigen::MatrixXf::Ones(4, 4);
  Eigen::MatrixXf out;
  const auto refused = [&](const attn::options& options, const std::string& why) {
    CHECK_THROWS_WITH(attn::scaled_dot_product_attention(q, m.leftCols(4), q, options), why);
    CHECK(m == before);
  };
  refused({.weights = m.leftCols(4)},
          "options.weights overlaps key in memory: it would be written while that is read");
  refused({.log_sum_exp = m.col(2)},
          "options.log_sum_exp overlaps key in memory: it would be written while that is read");
  refused({.log_sum_exp = m.col(6), .weights = m.middleCols(5, 4)},
          "options.weights overlaps options.log_sum_exp in memory: both would be written there");
  refused({.log_sum_exp = out, .weights = out},
          "options.weights overlaps options.log_sum_exp in memory: both would be written there");
  CHECK_THROWS_WITH(attn::scaled_dot_product_attention_into(out, q, q, q, {.weights = out}),
                    "options.weights overlaps out in memory: both would be written there");
  CHECK(out.size() == 0);
}

}  // namespace
}  // namespace attn_test
