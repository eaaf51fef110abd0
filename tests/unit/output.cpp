// The optional outputs of the call: where they may go, and that they arrive.
#include "support/refusal.hpp"
#include "unit/laws.hpp"

namespace attn_test {
namespace {

const problem<float>& sample() {
  static const problem<float> p = [] {
    generator g(101);
    return any_problem<float>(g, {3, 5, 4, 2});
  }();
  return p;
}

void call(const attn::options& options) {
  attn::scaled_dot_product_attention(sample().q, sample().k, sample().v, options);
}

TEST_CASE("weights and log_sum_exp are resized to fit") {
  const auto expected = expect(sample());
  Eigen::MatrixXf weights(9, 9);
  Eigen::VectorXf lse(9);
  call({.log_sum_exp = lse, .weights = weights});
  CHECK(expected.against_weights(weights) == "");
  CHECK(expected.against_log_sum_exp(lse) == "");

  matrix<float> row_major;
  Eigen::RowVectorXf lying;
  call({.log_sum_exp = lying, .weights = row_major});
  CHECK(expected.against_weights(row_major) == "");
  CHECK(expected.against_log_sum_exp(lying.transpose()) == "");

  Eigen::ArrayXXf array;
  Eigen::ArrayXf array_of_lse;
  call({.log_sum_exp = array_of_lse, .weights = array});
  CHECK(expected.against_weights(array) == "");
  CHECK(expected.against_log_sum_exp(array_of_lse) == "");

  Eigen::MatrixXf matrix_of_lse;
  call({.log_sum_exp = matrix_of_lse});
  CHECK(expected.against_log_sum_exp(matrix_of_lse) == "");
}

TEST_CASE("a result of one row may go to a column") {
  const auto& p = sample();
  Eigen::VectorXf column;
  const Eigen::RowVectorXf query = p.q.row(0);
  const Eigen::RowVectorXf row = attn::scaled_dot_product_attention(query, p.k, p.v);
  attn::scaled_dot_product_attention_into(column, query, p.k, p.v);
  CHECK(same_bits(column, row.transpose()));
  Eigen::Matrix2f square;
  attn::scaled_dot_product_attention_into(square.col(1), query, p.k, p.v);
  CHECK(same_bits(square.col(1), row.transpose()));
  CHECK(message_of([&] { attn::scaled_dot_product_attention_into(column, p.q, p.k, p.v); }) ==
        "out has any number of rows and 1 columns, it should have 3 and 2");
}

TEST_CASE("weights and log_sum_exp go where they are told, and nowhere else") {
  const auto expected = expect(sample());
  Eigen::Matrix<float, 3, 5> fixed;
  Eigen::Vector3f fixed_lse;
  call({.log_sum_exp = fixed_lse, .weights = fixed});
  CHECK(expected.against_weights(fixed) == "");
  CHECK(expected.against_log_sum_exp(fixed_lse) == "");

  // A block of a larger matrix, row- or column-major; a row of one for log_sum_exp.
  const auto into_block = [&](auto backing) {
    backing.setConstant(7);
    call({.log_sum_exp = backing.row(0).segment(1, 3), .weights = backing.block(2, 1, 3, 5)});
    CHECK(expected.against_weights(backing.block(2, 1, 3, 5)) == "");
    CHECK(expected.against_log_sum_exp(backing.row(0).segment(1, 3).transpose()) == "");
    backing.block(2, 1, 3, 5).setConstant(7);
    backing.row(0).segment(1, 3).setConstant(7);
    CHECK((backing.array() == 7).all());
  };
  into_block(Eigen::MatrixXf(8, 9));
  into_block(matrix<float>(8, 9));

  std::vector<float> memory(100, 7.0f);
  Eigen::Map<matrix<float>, 0, Eigen::OuterStride<>> map(memory.data(), 3, 5,
                                                         Eigen::OuterStride<>(8));
  Eigen::Map<Eigen::VectorXf, 0, Eigen::InnerStride<>> every_third(memory.data() + 50, 3,
                                                                   Eigen::InnerStride<>(3));
  call({.log_sum_exp = every_third, .weights = map});
  CHECK(expected.against_weights(map) == "");
  CHECK(expected.against_log_sum_exp(every_third) == "");
  CHECK(memory[5] == 7);
  CHECK(memory[51] == 7);

  Eigen::MatrixXf behind(3, 5), transposed(5, 3);
  Eigen::Ref<Eigen::MatrixXf> ref(behind);
  call({.weights = ref});
  CHECK(expected.against_weights(behind) == "");
  call({.weights = transposed.transpose()});
  CHECK(expected.against_weights(transposed.transpose()) == "");
}

TEST_CASE("outputs have the type that is computed in") {
  generator g(102);
  const auto in = [&](auto scalar) {
    using Scalar = decltype(scalar);
    const auto p = any_problem<Scalar>(g, {3, 5, 4, 2});
    matrix<accumulator<Scalar>> weights;
    vector<accumulator<Scalar>> lse;
    const auto out =
        attn::scaled_dot_product_attention(p.q, p.k, p.v, {.log_sum_exp = lse, .weights = weights});
    static_assert(std::is_same_v<typename decltype(out)::Scalar, Scalar>);
    CHECK(expect(p).against(out) == "");
    CHECK(expect(p).against_weights(weights) == "");
    CHECK(expect(p).against_log_sum_exp(lse) == "");
    if constexpr (is_16_bit<Scalar>) {
      matrix<Scalar> narrow;
      CHECK_THROWS_AS(attn::scaled_dot_product_attention(p.q, p.k, p.v, {.weights = narrow}),
                      std::invalid_argument);
      CHECK(narrow.size() == 0);
    }
  };
  in(double{});
  in(Eigen::half{});
}

TEST_CASE("outputs of calls with nothing in them") {
  Eigen::MatrixXf weights = Eigen::MatrixXf::Ones(2, 2);
  Eigen::VectorXf lse = Eigen::VectorXf::Ones(2);
  const attn::options options{.log_sum_exp = lse, .weights = weights};
  const auto attend = [&](index queries, index keys, index d, index dv) {
    return attn::scaled_dot_product_attention(Eigen::MatrixXf::Ones(queries, d),
                                              Eigen::MatrixXf::Ones(keys, d),
                                              Eigen::MatrixXf::Ones(keys, dv), options);
  };
  CHECK(attend(3, 0, 4, 2) == Eigen::MatrixXf::Zero(3, 2));
  CHECK((weights.rows() == 3 && weights.cols() == 0));
  CHECK((lse.size() == 3 && (lse.array() == -std::numeric_limits<float>::infinity()).all()));

  CHECK(attend(0, 5, 4, 2).rows() == 0);
  CHECK((weights.rows() == 0 && weights.cols() == 5 && lse.size() == 0));

  CHECK(attend(3, 5, 4, 0).cols() == 0);
  CHECK((weights.rows() == 3 && weights.isApproxToConstant(0.2f)));
  CHECK(lse.isApproxToConstant(2 + std::log(5.0f)));  // 4 / √4

  CHECK(attend(3, 5, 0, 2).isApproxToConstant(1));
  CHECK(weights.isApproxToConstant(0.2f));
  CHECK(lse.isApproxToConstant(std::log(5.0f)));

  CHECK(attend(0, 0, 0, 0).size() == 0);
}

TEST_CASE("options are plain: they can be kept, copied, changed and used again") {
  Eigen::VectorXf lse;
  attn::options kept{.alignment = attn::bottom_right, .log_sum_exp = lse, .scale = 0.5};
  const attn::options copy = kept;
  kept.scale.reset();
  kept.log_sum_exp = {};
  call(kept);
  CHECK(lse.size() == 0);
  call(copy);
  problem<float> p = sample();
  p.scale = 0.5;
  CHECK(expect(p).against_log_sum_exp(lse) == "");
  CHECK(!attn::options{}.weights);
  CHECK(copy.log_sum_exp);
}

}  // namespace
}  // namespace attn_test
