// Gradients wherever they are to lie: in rows, in columns, with gaps, and only some of them.
#include "gradient/support.hpp"

namespace attn_test {
namespace {

const std::vector<part> all_of_a_bias{of_query, of_key, of_value, of_sink, of_bias};

template <class Scalar>
using any_map = Eigen::Map<Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>, 0,
                           Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>>;

// Rows, columns, and elements with gaps in both directions, in memory that is full of `untouched`.
enum class layout { rows, columns, gaps };
constexpr int untouched = 77;

template <class Scalar>
struct place_to_write {
  std::vector<Scalar> memory;
  any_map<Scalar> map;
  index row_stride, col_stride;

  place_to_write(index rows, index cols, layout as)
      : map(nullptr, 0, 0, {0, 0}),
        row_stride(as == layout::rows      ? cols + 1
                   : as == layout::columns ? 1
                                           : 2 * cols + 3),
        col_stride(as == layout::rows      ? 1
                   : as == layout::columns ? rows + 2
                                           : 2) {
    memory.resize(static_cast<std::size_t>(rows * row_stride + cols * col_stride + 1),
                  Scalar(untouched));
    new (&map) any_map<Scalar>(memory.data(), rows, cols, {col_stride, row_stride});
  }

  // Everything between the elements is as it was.
  bool gaps_are_untouched() {
    map.setConstant(Scalar(untouched));
    return std::all_of(memory.begin(), memory.end(), [](Scalar x) { return x == untouched; });
  }
};

template <class Scalar>
void check_layouts(generator& g, shape n) {
  auto p = any_gradient_problem<Scalar>(g, n);
  const matrix<Scalar> bias = any_matrix<matrix<Scalar>>(g, n.queries, n.keys);
  const auto mask = attn::causal() & attn::as_mask(bias);
  const auto plain = run_gradients(p, mask, attn::identity(), all_of_a_bias);
  set_bias(p, bias);
  p.forward.visible = [](place at) { return at.key <= at.query; };
  const gradient_expectation<Scalar> expected(p);
  CHECK(expected.against(plain, all_of_a_bias) == "");

  vector<Scalar> lse;
  auto options = options_of(p, {});
  options.log_sum_exp = lse;
  const auto& [q, k, v] = std::tie(p.forward.q, p.forward.k, p.forward.v);
  const matrix<Scalar> out = attn::scaled_dot_product_attention(q, k, v, mask, options);
  for (const layout as : {layout::rows, layout::columns, layout::gaps}) {
    CAPTURE(static_cast<int>(as));
    place_to_write<Scalar> dq(n.queries, n.d, as), dk(n.keys, n.d, as), dv(n.keys, n.dv, as),
        dbias(n.queries, n.keys, as), dsink(1, 1, as);
    // What is read lies in columns, or with gaps, as well.
    place_to_write<Scalar> out_gradient(n.queries, n.dv, as), out_there(n.queries, n.dv, as);
    out_gradient.map = p.out_gradient;
    out_there.map = out;
    attn::forward_pass from{
        .log_sum_exp = lse, .out = out_there.map, .out_gradient = out_gradient.map};
    if (p.log_sum_exp_gradient.size() > 0) from.log_sum_exp_gradient = p.log_sum_exp_gradient;
    attn::scaled_dot_product_attention_backward(
        {.bias = dbias.map, .key = dk.map, .query = dq.map, .sink = dsink.map, .value = dv.map},
        from, q, k, v, mask, options_of(p, {}));
    CHECK(expected.against(of_query, dq.map) == "");
    CHECK(expected.against(of_key, dk.map) == "");
    CHECK(expected.against(of_value, dv.map) == "");
    CHECK(expected.against(of_bias, dbias.map) == "");
    CHECK(expected.against(of_sink, dsink.map) == "");
    for (auto* place : {&dq, &dk, &dv, &dbias, &dsink}) CHECK(place->gaps_are_untouched());
  }
}

TEST_CASE("outputs in rows, in columns and with gaps") {
  generator g(911);
  for (int repeat = 0; repeat < 6; ++repeat) {
    check_layouts<float>(g, any_shape(g, 60));
    check_layouts<double>(g, any_shape(g));
  }
  check_layouts<float>(g, {130, 520, 16, 16});
}

TEST_CASE("inputs in columns and expressions") {
  generator g(912);
  const shape n{33, 50, 7, 9};
  const auto p = any_gradient_problem<float>(g, n);
  const auto expected = gradient_expectation<float>(p);
  const Eigen::MatrixXf q = p.forward.q, k = p.forward.k / 2, v = p.forward.v;
  const Eigen::MatrixXf out_gradient = p.out_gradient;
  Eigen::VectorXf lse;
  auto options = options_of(p, {});
  options.log_sum_exp = lse;
  const Eigen::MatrixXf out = attn::scaled_dot_product_attention(q, 2 * k, v, options);
  Eigen::MatrixXf dq, dk, dv;
  attn::forward_pass from{.log_sum_exp = lse, .out = out, .out_gradient = out_gradient};
  if (p.log_sum_exp_gradient.size() > 0) from.log_sum_exp_gradient = p.log_sum_exp_gradient;
  attn::scaled_dot_product_attention_backward({.key = dk, .query = dq, .value = dv}, from, q, 2 * k,
                                              v, options);
  CHECK(expected.against(of_query, dq) == "");
  CHECK(expected.against(of_key, dk) == "");
  CHECK(expected.against(of_value, dv) == "");
}

template <class Scalar>
void check_subsets(generator& g, shape n) {
  const auto p = any_gradient_problem<Scalar>(g, n);
  const matrix<Scalar> bias = any_matrix<matrix<Scalar>>(g, n.queries, n.keys);
  const auto mask = attn::sliding_window(9, 5) & attn::as_mask(bias);
  const Eigen::VectorXd table = any_matrix<Eigen::VectorXd>(g, 2 * (n.queries + n.keys) + 1, 1);
  const auto change = attn::compose(attn::alibi(0.1), attn::relative_bias(table), attn::softcap(2));
  const std::vector<part> every(every_part.begin(), every_part.end());
  const auto all = run_gradients(p, mask, change, every);
  for (std::size_t set = 0; set < std::size_t{1} << every.size(); ++set) {
    std::vector<part> asked;
    for (const part n_th : every) {
      if ((set >> n_th & 1) != 0) asked.push_back(n_th);
    }
    CAPTURE(set);
    CHECK(same_bits(run_gradients(p, mask, change, asked), all, asked));
  }
}

TEST_CASE("only some of the gradients, with the same bits as all of them") {
  generator g(913);
  check_subsets<float>(g, {40, 70, 5, 9});
  check_subsets<double>(g, {23, 18, 3, 2});
}

TEST_CASE("what was in the outputs does not count, and matrices are resized") {
  generator g(914);
  const auto p = any_gradient_problem<float>(g, {9, 12, 3, 4});
  const auto expected = run_gradients(p, attn::none(), attn::identity(), inputs_and_sink());
  vector<float> lse;
  auto options = options_of(p, {});
  options.log_sum_exp = lse;
  const auto& [q, k, v] = std::tie(p.forward.q, p.forward.k, p.forward.v);
  const matrix<float> out = attn::scaled_dot_product_attention(q, k, v, options);
  attn::forward_pass from{.log_sum_exp = lse, .out = out, .out_gradient = p.out_gradient};
  if (p.log_sum_exp_gradient.size() > 0) from.log_sum_exp_gradient = p.log_sum_exp_gradient;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  matrix<float> dq = matrix<float>::Constant(9, 3, nan), dk = matrix<float>::Constant(2, 2, nan);
  Eigen::Matrix<float, 12, 4> dv = Eigen::Matrix<float, 12, 4>::Constant(nan);
  Eigen::RowVectorXf dsink = Eigen::RowVectorXf::Constant(1, nan);
  attn::scaled_dot_product_attention_backward({.key = dk, .query = dq, .sink = dsink, .value = dv},
                                              from, q, k, v, options_of(p, {}));
  CHECK(same_bits(dq, expected[of_query]));
  CHECK(same_bits(dk, expected[of_key]));
  CHECK(same_bits(dv, expected[of_value]));
  CHECK(same_bits(dsink, expected[of_sink]));
}

}  // namespace
}  // namespace attn_test
