// Bad input of the backward pass: a message that names the argument, what was found and what was
// expected, before anything is written.
#include "gradient/heads_support.hpp"

namespace attn_test {
namespace {

using Eigen::MatrixXf;
using Eigen::VectorXf;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

// Memory that nothing may be written to, in the sizes that fit a call of 3 queries and 5 keys of
// width 4 with values of width 2.
struct untouched_gradients {
  MatrixXf query = MatrixXf::Constant(3, 4, 7), key = MatrixXf::Constant(5, 4, 7),
           value = MatrixXf::Constant(5, 2, 7), bias = MatrixXf::Constant(3, 5, 7),
           table = MatrixXf::Constant(21, 1, 7), slopes = MatrixXf::Constant(1, 1, 7),
           sink = MatrixXf::Constant(1, 1, 7);

  bool all_untouched() const {
    for (const MatrixXf* m : {&query, &key, &value, &bias, &table, &slopes, &sink}) {
      if ((m->array() != 7).any()) return false;
    }
    return query.rows() == 3 && key.rows() == 5 && value.rows() == 5;
  }
};

struct call {
  MatrixXf q = MatrixXf::Ones(3, 4), k = MatrixXf::Ones(5, 4), v = MatrixXf::Ones(5, 2);
  MatrixXf out = MatrixXf::Ones(3, 2), out_gradient = MatrixXf::Ones(3, 2);
  VectorXf lse = VectorXf::Ones(3), lse_gradient = VectorXf::Ones(3);
  mutable untouched_gradients to;

  attn::forward_pass from() const {
    return {.log_sum_exp = lse,
            .log_sum_exp_gradient = lse_gradient,
            .out = out,
            .out_gradient = out_gradient};
  }
  attn::gradients inputs() const { return {.key = to.key, .query = to.query, .value = to.value}; }

  template <class M, class F>
  std::string missing(const attn::gradients& gradients, const attn::forward_pass& given,
                      const M& mask, const F& score_mod, const std::vector<std::string>& words,
                      attn::options options = {}) const {
    if (!options.alignment.given()) options.alignment = attn::top_left;
    const std::string found = attn_test::missing(
        [&] {
          attn::scaled_dot_product_attention_backward(gradients, given, q, k, v, mask, score_mod,
                                                      options);
        },
        words);
    return to.all_untouched() ? found : found + " - and written to";
  }
  std::string missing(const attn::gradients& gradients, const attn::forward_pass& given,
                      const std::vector<std::string>& words,
                      const attn::options& options = {}) const {
    return missing(gradients, given, attn::none(), attn::identity(), words, options);
  }
};

TEST_CASE("results of the forward pass that are missing or don't fit") {
  const call c;
  const auto refused = [&](attn::forward_pass from, const std::vector<std::string>& words) {
    CHECK(c.missing(c.inputs(), from, words) == "");
  };
  const auto with = [&](const auto& change) {
    attn::forward_pass from = c.from();
    change(from);
    return from;
  };
  using pass = attn::forward_pass;
  refused(with([](pass& f) { f.out = {}; }), {"out is not given"});
  refused(with([](pass& f) { f.out_gradient = {}; }), {"out_gradient is not given"});
  refused(with([](pass& f) { f.log_sum_exp = {}; }), {"log_sum_exp is not given"});

  const MatrixXf longer(4, 2), wider(3, 5), turned(2, 3);
  refused(with([&](pass& f) { f.out = longer; }), {"out has 4 rows and 2 columns", "3 and 2"});
  refused(with([&](pass& f) { f.out = wider; }), {"out has 3 rows and 5 columns", "3 and 2"});
  refused(with([&](pass& f) { f.out = turned; }), {"out has 2 rows and 3 columns", "3 and 2"});
  refused(with([&](pass& f) { f.out_gradient = longer; }), {"out_gradient has 4", "3 and 2"});
  const VectorXf four(4);
  refused(with([&](pass& f) { f.log_sum_exp = four; }), {"log_sum_exp has 4", "3 and 1"});
  refused(with([&](pass& f) { f.log_sum_exp = longer; }), {"log_sum_exp has 4", "3 and 1"});
  refused(with([&](pass& f) { f.log_sum_exp_gradient = four; }),
          {"log_sum_exp_gradient has 4", "3 and 1"});

  const Eigen::MatrixXd doubles(3, 2);
  const Eigen::VectorXd three(3);
  const std::vector<std::string> type{"type double", "should be float"};
  refused(with([&](pass& f) { f.out = doubles; }), type);
  refused(with([&](pass& f) { f.out_gradient = doubles; }), type);
  refused(with([&](pass& f) { f.log_sum_exp = three; }), type);
  refused(with([&](pass& f) { f.log_sum_exp_gradient = three; }), type);

  const heads_array<float> heads({1, 1, 3, 2});
  refused(with([&](pass& f) { f.out = heads; }), {"out is heads", "matrix with 3 rows"});

  // A row of log-sum-exps is as good as a column.
  const Eigen::RowVectorXf lying = c.lse.transpose();
  CHECK(missing(
            [&] {
              attn::scaled_dot_product_attention_backward(
                  c.inputs(), with([&](pass& f) { f.log_sum_exp = lying; }), c.q, c.k, c.v);
            },
            {}) == "accepted");
}

TEST_CASE("inputs and options that the forward pass would refuse") {
  const call c;
  const std::vector<std::pair<double, std::string>> wrong{
      {1, "1"}, {1.5, "1.5"}, {-0.1, "-0.1"}, {nan, "nan"}, {INFINITY, "inf"}};
  for (const auto& [probability, text] : wrong) {
    const std::vector<std::string> words{"dropout", "probability " + text, "at least 0", "below 1"};
    const attn::options options{.dropout = {probability, 1}};
    CHECK(c.missing(c.inputs(), c.from(), words, options) == "");
    CHECK(missing([&] { attn::scaled_dot_product_attention(c.q, c.k, c.v, options); }, words) ==
          "");
    CHECK(missing([&] { (void)attn::dropout_factor(options.dropout, {}); }, words) == "");
    const auto h = heads_array<float>({1, 1, 3, 2});
    CHECK(missing([&] { attn::scaled_dot_product_attention(h, h, h, options); }, words) == "");
  }
  CHECK(c.missing(c.inputs(), c.from(), {"scale", "nan"}, {.scale = nan}) == "");
  CHECK(c.missing(c.inputs(), c.from(), {"sink", "nan"}, {.sink = nan}) == "");
  CHECK(c.missing(c.inputs(), c.from(), MatrixXf(2, 5), attn::identity(), {"mask", "2", "3"}) ==
        "");
  CHECK(c.missing(c.inputs(), c.from(), attn::none(), attn::alibi({1, 2}), {"alibi", "2"}) == "");
  CHECK(missing(
            [&] {
              attn::scaled_dot_product_attention_backward(c.inputs(), c.from(), c.q, c.k, c.v,
                                                          attn::causal());
            },
            {"alignment"}) == "");
  call other;
  other.k = MatrixXf::Ones(5, 7);
  CHECK(other.missing(other.inputs(), other.from(), {"key", "7", "query", "4"}) == "");
  call more_values;
  more_values.v = MatrixXf::Ones(6, 2);
  CHECK(more_values.missing(more_values.inputs(), more_values.from(), {"value", "6", "5"}) == "");
}

TEST_CASE("what with_derivative holds is checked as if it stood alone") {
  const call c;
  const auto one = [](float) { return 1.0f; };
  const auto refused = [&](const auto& change, const std::vector<std::string>& words) {
    CHECK(c.missing(c.inputs(), c.from(), attn::none(), attn::with_derivative(change, one),
                    words) == "");
    CHECK(c.missing(c.inputs(), c.from(), attn::none(), attn::with_derivative(one, change),
                    words) == "");
  };
  refused(attn::alibi({1, 2}), {"alibi has 2 slopes", "1 heads"});
  refused(attn::relative_bias(VectorXf(VectorXf::Ones(3))), {"relative_bias reaches 1"});
}

TEST_CASE("gradients that have no place to go") {
  const call c;
  Eigen::MatrixXd doubles;
  Eigen::Matrix<float, 2, 2> fixed;
  const std::string type = "type double";
  CHECK(c.missing({.query = doubles, .value = c.to.value}, c.from(), {"gradients.query", type}) ==
        "");
  CHECK(c.missing({.key = doubles, .value = c.to.value}, c.from(), {"gradients.key", type}) == "");
  CHECK(c.missing({.query = c.to.query, .value = doubles}, c.from(), {"gradients.value", type}) ==
        "");
  CHECK(c.missing({.sink = doubles, .value = c.to.value}, c.from(), {"gradients.sink", type}) ==
        "");
  CHECK(c.missing({.query = fixed, .value = c.to.value}, c.from(),
                  {"gradients.query has 2 rows and 2", "3 and 4"}) == "");
  CHECK(c.missing({.key = fixed, .query = c.to.query}, c.from(),
                  {"gradients.key has 2 rows and 2", "5 and 4"}) == "");
  CHECK(c.missing({.query = c.to.query, .value = c.to.key.block(0, 0, 5, 3)}, c.from(),
                  {"gradients.value has 5 rows and 3", "5 and 2"}) == "");
  CHECK(c.missing({.query = c.to.query, .sink = c.to.table.topRows(2)}, c.from(),
                  {"gradients.sink has 2", "1 and 1"}) == "");
  heads_array<float> heads;
  CHECK(c.missing({.query = heads}, c.from(), {"gradients.query is heads", "matrix"}) == "");

  const MatrixXf bias = MatrixXf::Zero(3, 5), row = MatrixXf::Zero(1, 5);
  Eigen::Matrix<float, 3, 4> other;
  CHECK(c.missing({.bias = other}, c.from(), bias, attn::identity(),
                  {"gradients.bias has 3 rows and 4", "3 and 5"}) == "");
  CHECK(c.missing({.bias = c.to.query.block(0, 0, 3, 4)}, c.from(), row, attn::identity(),
                  {"gradients.bias has 3 rows", "1 and 5"}) == "");
  const VectorXf table = VectorXf::Zero(21);
  CHECK(c.missing({.relative_bias = c.to.table.topRows(20)}, c.from(), attn::none(),
                  attn::relative_bias(table),
                  {"gradients.relative_bias has 20", "21 and 1"}) == "");
  CHECK(c.missing({.slopes = c.to.table.topRows(2)}, c.from(), attn::none(), attn::alibi(1),
                  {"gradients.slopes has 2", "1 and 1"}) == "");
}

TEST_CASE("gradients of what the call does not have, or has twice") {
  const call c;
  const MatrixXf bias = MatrixXf::Zero(3, 5);
  const auto refused = [&](const attn::gradients& to, const auto& mask, const auto& change,
                           const std::vector<std::string>& words) {
    CHECK(c.missing(to, c.from(), mask, change, words) == "");
  };
  const attn::identity same;
  const attn::none all;
  refused({.bias = c.to.bias}, all, same, {"gradients.bias", "no bias"});
  refused({.bias = c.to.bias}, attn::causal() & attn::key_padding(3), same, {"no bias"});
  refused({.bias = c.to.bias}, attn::as_mask(bias) & attn::as_mask(bias), same, {"2 biases"});
  refused({.bias = c.to.bias}, attn::as_mask(bias) & attn::causal() & attn::as_mask(bias), same,
          {"2 biases", "add them up"});
  refused({.slopes = c.to.slopes}, all, same, {"gradients.slopes", "no alibi"});
  refused({.slopes = c.to.slopes}, all, attn::softcap(1), {"gradients.slopes", "no alibi"});
  refused({.slopes = c.to.slopes}, all, attn::compose(attn::alibi(1), attn::alibi(2)),
          {"gradients.slopes", "2 of alibi"});
  const VectorXf table = VectorXf::Zero(21);
  refused({.relative_bias = c.to.table}, all, attn::alibi(1),
          {"gradients.relative_bias", "no relative_bias"});
  refused({.relative_bias = c.to.table}, all,
          attn::compose(attn::relative_bias(table), attn::relative_bias(table)),
          {"gradients.relative_bias", "2 of relative_bias"});
}

TEST_CASE("outputs that lie where something is read, or on one another") {
  call c;
  const MatrixXf bias = MatrixXf::Zero(3, 5);
  const auto refused = [&](const attn::gradients& to, const std::vector<std::string>& words) {
    CHECK(c.missing(to, c.from(), bias, attn::identity(), words) == "");
    CHECK((c.q.array() == 1).all());
    CHECK((c.k.array() == 1).all());
    CHECK((c.v.array() == 1).all());
    CHECK((c.out.array() == 1).all());
  };
  refused({.query = c.q}, {"gradients.query overlaps query"});
  refused({.key = c.k}, {"gradients.key overlaps key"});
  refused({.value = c.v}, {"gradients.value overlaps value"});
  refused({.value = c.k.leftCols(2)}, {"gradients.value overlaps key"});
  MatrixXf large = MatrixXf::Ones(5, 4);
  c.out = large.block(0, 0, 3, 2);
  const attn::forward_pass from{
      .log_sum_exp = c.lse, .out = large.block(0, 0, 3, 2), .out_gradient = c.out_gradient};
  CHECK(c.missing({.key = large}, from, {"gradients.key overlaps out"}) == "");
  const attn::forward_pass lse_there{
      .log_sum_exp = large.col(1).head(3), .out = c.out, .out_gradient = c.out_gradient};
  CHECK(c.missing({.key = large}, lse_there, {"gradients.key overlaps log_sum_exp"}) == "");
  const attn::forward_pass gradient_there{
      .log_sum_exp = c.lse, .out = c.out, .out_gradient = large.block(2, 1, 3, 2)};
  CHECK(c.missing({.key = large}, gradient_there, {"gradients.key overlaps out_gradient"}) == "");
  const attn::forward_pass second{.log_sum_exp = c.lse,
                                  .log_sum_exp_gradient = large.col(1).head(3),
                                  .out = c.out,
                                  .out_gradient = c.out_gradient};
  CHECK(c.missing({.key = large}, second, {"gradients.key overlaps log_sum_exp_gradient"}) == "");
  CHECK((large.array() == 1).all());

  refused({.key = c.to.key, .value = c.to.key.leftCols(2)}, {"gradients.value overlaps", "key"});
  refused({.key = c.to.key, .query = c.to.key.topRows(3)}, {"gradients.query", "gradients.key"});
  MatrixXf same;
  refused({.key = same, .query = same}, {"gradients.query", "gradients.key"});
  refused({.bias = c.to.bias, .sink = c.to.bias.block(1, 1, 1, 1)},
          {"gradients.sink overlaps gradients.bias"});
  CHECK(same.size() == 0);
}

TEST_CASE("gradients of what is learned that lie on it") {
  const call c;
  MatrixXf bias = MatrixXf::Ones(3, 5);
  CHECK(c.missing({.bias = bias}, c.from(), attn::causal() & bias, attn::identity(),
                  {"gradients.bias overlaps mask"}) == "");
  VectorXf table = VectorXf::Ones(21);
  CHECK(c.missing({.relative_bias = table}, c.from(), attn::none(), attn::relative_bias(table),
                  {"gradients.relative_bias overlaps relative_bias"}) == "");
  VectorXf sinks = VectorXf::Ones(1);
  CHECK(c.missing({.sink = sinks}, c.from(), attn::none(), attn::identity(),
                  {"gradients.sink overlaps options.sink"}, {.sink = sinks}) == "");
  MatrixXf large = MatrixXf::Ones(3, 5);
  CHECK(c.missing({.query = large.leftCols(4)}, c.from(), attn::causal() & large, attn::identity(),
                  {"gradients.query overlaps mask"}) == "");
  CHECK(c.missing({.query = table.head(12).reshaped(3, 4)}, c.from(), attn::none(),
                  attn::relative_bias(table), {"gradients.query overlaps relative_bias"}) == "");
  const auto doubled = [](float s) { return 2 * s; };
  CHECK(c.missing({.query = table.head(12).reshaped(3, 4)}, c.from(), attn::none(),
                  attn::with_derivative(attn::relative_bias(table), doubled),
                  {"gradients.query overlaps relative_bias"}) == "");
  CHECK((large.array() == 1).all());
  CHECK((bias.array() == 1).all());
  CHECK((table.array() == 1).all());
  CHECK(sinks(0) == 1);
}

TEST_CASE("heads where matrices are, and matrices where heads are") {
  generator g(981);
  const auto q = any_heads<float>(g, {2, 4, 3, 4}), k = any_heads<float>(g, {2, 2, 5, 4});
  const auto v = any_heads<float>(g, {2, 2, 5, 2}), out = any_heads<float>(g, {2, 4, 3, 2});
  const auto lse = any_heads<float>(g, {2, 4, 3, 1});
  heads_array<float> dq({2, 4, 3, 4}), dk({2, 2, 5, 4});
  std::fill_n(dq.data(), dq.shape().size(), 7.0f);
  std::fill_n(dk.data(), dk.shape().size(), 7.0f);
  const auto refused = [&](const attn::gradients& to, const attn::forward_pass& from,
                           const std::vector<std::string>& words) {
    CHECK(missing([&] { attn::scaled_dot_product_attention_backward(to, from, q, k, v); }, words) ==
          "");
    CHECK(std::all_of(dq.data(), dq.data() + dq.shape().size(), [](float x) { return x == 7; }));
    CHECK(std::all_of(dk.data(), dk.data() + dk.shape().size(), [](float x) { return x == 7; }));
  };
  const attn::forward_pass good{.log_sum_exp = lse, .out = out, .out_gradient = out};
  MatrixXf matrix(3, 4);
  refused({.query = matrix}, good, {"gradients.query is a matrix", "2 x 4 x 3 x 4"});
  refused({.key = dk, .query = matrix}, good, {"gradients.query is a matrix"});
  refused({.query = dk.view()}, good, {"gradients.query has the shape 2 x 2 x 5 x 4", "2 x 4 x 3"});
  refused({.key = dq.view()}, good, {"gradients.key has the shape 2 x 4 x 3 x 4", "2 x 2 x 5"});
  refused({.sink = dk}, good, {"gradients.sink is heads", "matrix with 1 rows"});
  const MatrixXf of_one(3, 2);
  refused({.query = dq}, {.log_sum_exp = lse, .out = of_one, .out_gradient = out},
          {"out is a matrix", "2 x 4 x 3 x 2"});
  refused({.query = dq}, {.log_sum_exp = out, .out = out, .out_gradient = out},
          {"log_sum_exp has the shape 2 x 4 x 3 x 2", "2 x 4 x 3 x 1"});
  refused({.query = dq}, {.log_sum_exp = lse, .out = q, .out_gradient = out},
          {"out has the shape 2 x 4 x 3 x 4", "2 x 4 x 3 x 2"});
  const heads_array<double> doubles({2, 4, 3, 2});
  refused({.query = dq}, {.log_sum_exp = lse, .out = out, .out_gradient = doubles},
          {"out_gradient has elements of type double"});
  refused({.key = dk, .query = dk}, good, {"gradients.key overlaps gradients.query"});

  const std::vector<int> starts{0, 3}, keys{0, 5};
  const auto packed = [&] {
    attn::packed_attention_backward({.query = dq}, good, q, k, v, {starts, keys});
  };
  CHECK(missing(packed, {"query has 2 sequences", "packed"}) == "");
  const std::vector<int> lengths{1, 2, 3};
  CHECK(missing(
            [&] {
              attn::scaled_dot_product_attention_backward({.query = dq}, good, q, k, v,
                                                          {.key_lengths = lengths});
            },
            {"key_lengths has 3 lengths", "2 sequences"}) == "");
}

}  // namespace
}  // namespace attn_test
