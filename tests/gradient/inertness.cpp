// Hidden means inert on the way back as well: NaN and inf in a key or value reach nothing of the
// rows that do not see it, those in a row nothing of the keys that it does not see. What is seen
// shows. Plain loops over the pairs that see each other tell which is which.
#include "gradient/support.hpp"

namespace attn_test {
namespace {

template <class Scalar>
constexpr Scalar nan = std::numeric_limits<Scalar>::quiet_NaN();
template <class Scalar>
constexpr Scalar infinity = std::numeric_limits<Scalar>::infinity();

template <class Scalar>
bool is_finite(const matrix<Scalar>& m) {
  return m.array().isFinite().all();
}

// NaN is where the reference has it, and nowhere else. Infinite numbers may also come out as NaN.
template <class Scalar, class M, class F>
gradient_matrices<Scalar> check_planted(const gradient_problem<Scalar>& bad, const M& mask,
                                        const F& score_mod,
                                        const std::vector<part>& parts = inputs_and_sink()) {
  const auto found = run_gradients(bad, mask, score_mod, parts);
  CHECK(gradient_expectation<Scalar>(bad).against(found, parts, true) == "");
  return found;
}

// One awful number, or a row of them, in each of what a call reads.
template <class Scalar, class M, class F>
void plant_everywhere(generator& g, const gradient_problem<Scalar>& p, const M& mask,
                      const F& score_mod, const std::vector<part>& parts = inputs_and_sink()) {
  const index j = g.between(0, p.forward.k.rows() - 1), i = g.between(0, p.forward.q.rows() - 1);
  for (const Scalar poison : {nan<Scalar>, infinity<Scalar>, -infinity<Scalar>}) {
    CAPTURE(poison, i, j);
    auto bad = p;
    bad.forward.k(j, g.between(0, p.forward.k.cols() - 1)) = poison;
    check_planted(bad, mask, score_mod, parts);
    bad = p;
    bad.forward.v(j, g.between(0, p.forward.v.cols() - 1)) = poison;
    check_planted(bad, mask, score_mod, parts);
    bad = p;
    bad.forward.q(i, g.between(0, p.forward.q.cols() - 1)) = poison;
    check_planted(bad, mask, score_mod, parts);
    bad = p;
    bad.out_gradient(i, g.between(0, p.forward.v.cols() - 1)) = poison;
    check_planted(bad, mask, score_mod, parts);
    bad.forward.q.row(i).setConstant(poison);
    bad.forward.k.row(j).setConstant(poison);
    bad.forward.v.row(j).setConstant(poison);
    check_planted(bad, mask, score_mod, parts);
  }
}

template <class Scalar>
void check_every_mask(generator& g, shape n) {
  for (const mask_case& c : every_mask(g, n.queries, n.keys)) {
    auto p = any_gradient_problem<Scalar>(g, n);
    p.forward.visible = c.visible;
    p.forward.offset = g.one_of(std::vector<index>{0, n.keys - n.queries, g.between(-9, 9)});
    p.forward.scale = std::nullopt;
    INFO(c.name);
    CAPTURE(n.queries, n.keys, n.d, n.dv, p.forward.sink);
    plant_everywhere(g, p, c.mask, attn::identity());
  }
}

TEST_CASE("what a mask hides is inert, what it shows is not") {
  generator g(941);
  for (int repeat = 0; repeat < 4; ++repeat) {
    check_every_mask<float>(g, any_shape(g, repeat < 3 ? 24 : 100));
    check_every_mask<double>(g, any_shape(g, 24));
  }
}

TEST_CASE("what a mask hides is inert under score changes and biases") {
  generator g(942);
  for (int repeat = 0; repeat < 6; ++repeat) {
    const shape n = any_shape(g, 24);
    const mask_case c = g.one_of(every_mask(g, n.queries, n.keys));
    INFO(c.name);
    auto p = any_gradient_problem<float>(g, n);
    p.forward.visible = c.visible;
    p.forward.scale = std::nullopt;
    for (const auto& change : every_smooth_change<float>(g, n, 0)) {
      INFO(change.name);
      p.forward.change = change.truth;
      p.derivative = change.derivative;
      for (const float poison : {nan<float>, infinity<float>}) {
        auto bad = p;
        bad.forward.k.row(g.between(0, n.keys - 1)).setConstant(poison);
        bad.forward.q.row(g.between(0, n.queries - 1)).setConstant(poison);
        check_planted(bad, c.mask, change.library);
      }
    }
    p.forward.change = {};
    p.derivative = {};
    matrix<float> bias = any_matrix<matrix<float>>(g, n.queries, n.keys);
    for (float& x : bias.reshaped()) {
      if (g.chance(0.3)) x = -infinity<float>;
    }
    set_bias(p, bias);
    plant_everywhere(g, p, c.mask & attn::as_mask(bias), attn::identity(),
                     {of_query, of_key, of_value, of_bias, of_sink});
  }
}

TEST_CASE("rows that see nothing pass nothing back, whatever is in them") {
  generator g(943);
  for (const double sink : {-infinity<double>, 0.5}) {
    for (const float poison : {nan<float>, infinity<float>}) {
      CAPTURE(sink, poison);
      auto p = any_gradient_problem<float>(g, {30, 40, 5, 4});
      p.forward.scale = std::nullopt;
      p.forward.sink = sink;
      p.forward.visible = [](place at) { return at.row % 3 != 1; };
      const any_mask mask(attn::as_mask([](attn::position at) { return at.row % 3 != 1; }));
      const auto sound = run_gradients(p, mask, attn::identity(), inputs_and_sink());
      for (index i = 1; i < 30; i += 3) {
        p.forward.q.row(i).setConstant(poison);
        p.out_gradient.row(i).setConstant(poison);
      }
      const auto found = run_gradients(p, mask, attn::identity(), inputs_and_sink());
      const gradient_expectation<float> expected(p);
      for (const part n : inputs_and_sink()) {
        CHECK(is_finite(found[n]));
        CHECK(expected.against(n, found[n]) == "");
        CHECK(expected.against(n, sound[n]) == "");
      }
      for (index i = 1; i < 30; i += 3) CHECK((found[of_query].row(i).array() == 0).all());
    }
  }
}

TEST_CASE("every row empty: zeros, whatever is in keys and values") {
  generator g(944);
  for (const double sink : {-infinity<double>, 0.5}) {
    auto p = any_gradient_problem<double>(g, {20, 30, 3, 2});
    p.forward.sink = sink;
    p.forward.visible = [](place) { return false; };
    p.forward.k.setConstant(nan<double>);
    p.forward.v.setConstant(nan<double>);
    p.forward.q.setConstant(infinity<double>);
    p.out_gradient.setConstant(nan<double>);
    matrix<double> bias = matrix<double>::Constant(20, 30, -infinity<double>);
    const std::vector<part> parts{of_query, of_key, of_value, of_bias};
    for (const auto& found :
         {run_gradients(p, attn::as_mask(bias), attn::identity(), parts),
          run_gradients(p, attn::key_padding(0) & attn::as_mask(bias), attn::softcap(1), parts)}) {
      for (const part n : parts) CHECK((found[n].array() == 0).all());
    }
    const auto sink_gradient =
        run_gradients(p, attn::key_padding(0), attn::identity(), {of_sink})[of_sink];
    CHECK(gradient_expectation<double>(p).against(of_sink, sink_gradient) == "");
  }
}

TEST_CASE("rows whose scores are all -inf, as those that see nothing") {
  generator g(948);
  auto p = any_gradient_problem<float>(g, {20, 30, 3, 2});
  p.forward.sink = -infinity<double>;
  p.forward.scale = std::nullopt;
  p.forward.k.col(0).setConstant(infinity<float>);
  p.forward.q.col(0).setConstant(-1);
  const matrix<float> bias = any_matrix<matrix<float>>(g, 20, 30);
  const std::vector<part> parts{of_query, of_key, of_value, of_slope, of_bias};
  const auto found = run_gradients(p, attn::as_mask(bias), attn::alibi(0.1), parts);
  for (const part n : parts) CHECK((found[n].array() == 0).all());
  const std::vector<part> unmasked{of_query, of_key, of_value, of_slope};
  const auto seen = run_gradients(p, attn::none(), attn::alibi(0.1), unmasked);
  for (const part n : unmasked) CHECK((seen[n].array() == 0).all());
}

TEST_CASE("padding is inert, whatever lies in it") {
  generator g(945);
  for (const index length : {0, 1, 5, 63, 64, 65, 100}) {
    auto p = any_gradient_problem<float>(g, {7, 130, 5, 3});
    p.forward.visible = [=](place at) { return at.key < length; };
    const auto sound =
        run_gradients(p, attn::key_padding(length), attn::identity(), inputs_and_sink());
    auto bad = p;
    bad.forward.k.bottomRows(130 - length).setConstant(nan<float>);
    bad.forward.v.bottomRows(130 - length).setConstant(infinity<float>);
    const auto found = check_planted(bad, attn::key_padding(length), attn::identity());
    for (const part n : {of_key, of_value}) {
      CHECK((found[n].bottomRows(130 - length).array() == 0).all());
    }
    for (const part n : inputs_and_sink()) {
      CHECK(is_finite(found[n]));
      CHECK(gradient_expectation<float>(p).against(n, sound[n]) == "");
    }
  }
}

TEST_CASE("a weight of 0 that a mask shows does not keep NaN out, dropout neither") {
  generator g(946);
  auto p = any_gradient_problem<float>(g, {6, 9, 3, 2});
  p.forward.scale = std::nullopt;
  p.forward.v(4, 1) = nan<float>;
  for (const attn::dropout draws : {attn::dropout{}, attn::dropout{0.9, 1}}) {
    const auto found =
        run_gradients(p, attn::none(), attn::identity(), inputs_and_sink(), {.dropout = draws});
    CHECK(found[of_query].array().isNaN().all());
    CHECK(found[of_key].array().isNaN().all());
  }
}

TEST_CASE("a NaN that came back for the log-sum-exp reaches its own row only") {
  generator g(947);
  auto p = any_gradient_problem<float>(g, {20, 25, 3, 2});
  p.forward.scale = std::nullopt;
  p.forward.visible = [](place at) { return at.key <= at.query; };
  p.log_sum_exp_gradient = vector<float>::Ones(20);
  p.log_sum_exp_gradient(12) = nan<float>;
  const auto found = check_planted(p, attn::causal(), attn::identity());
  CHECK(found[of_query].row(12).array().isNaN().all());
  CHECK(found[of_query].row(11).array().isFinite().all());
  CHECK(found[of_key].row(12).array().isNaN().all());
  CHECK(found[of_key].row(13).array().isFinite().all());
  CHECK(is_finite(found[of_value]));
}

// A padded batch that attends to itself: a token of padding is a query, too, but nothing comes back
// for it.
TEST_CASE("a row that nothing came back for passes nothing back, whatever is in it") {
  generator g(977);
  auto p = any_gradient_problem<float>(g, {20, 20, 5, 3});
  p.log_sum_exp_gradient.resize(0);
  p.forward.sink = -infinity<double>;
  p.out_gradient.row(7).setZero();
  const auto hidden = [](index, index key) { return key != 7; };
  const auto gradients = [&] {
    vector<float> lse;
    matrix<float> query, key, value;
    const matrix<float> out = attn::scaled_dot_product_attention(
        p.forward.q, p.forward.k, p.forward.v, hidden, {.log_sum_exp = lse});
    attn::scaled_dot_product_attention_backward(
        {.key = key, .query = query, .value = value},
        {.log_sum_exp = lse, .out = out, .out_gradient = p.out_gradient}, p.forward.q, p.forward.k,
        p.forward.v, hidden);
    CHECK(query.row(7).isZero(0));
    matrix<float> all(60, 5);
    all << query, key, (matrix<float>(20, 5) << value, matrix<float>::Zero(20, 2)).finished();
    return all;
  };
  const matrix<float> sound = gradients();
  p.forward.q.row(7).setConstant(NAN);
  p.forward.k.row(7).setConstant(NAN);
  p.forward.v.row(7).setConstant(NAN);
  const matrix<float> found = gradients();
  CHECK(found.allFinite());
  CHECK((found - sound).cwiseAbs().maxCoeff() <= 1e-5f);
}

TEST_CASE("nor does it through its bias") {
  generator g(978);
  const auto q = any_matrix<matrix<float>>(g, 20, 5), k = any_matrix<matrix<float>>(g, 30, 5);
  const auto v = any_matrix<matrix<float>>(g, 30, 3);
  auto out_gradient = any_matrix<matrix<float>>(g, 20, 3);
  out_gradient.row(7).setZero();
  for (const float awful : {NAN, infinity<float>}) {
    matrix<float> bias = any_matrix<matrix<float>>(g, 20, 30);
    bias(7, 4) = awful;
    vector<float> lse;
    matrix<float> bias_gradient, query, key, value;
    const matrix<float> out =
        attn::scaled_dot_product_attention(q, k, v, bias, {.log_sum_exp = lse});
    attn::scaled_dot_product_attention_backward(
        {.bias = bias_gradient, .key = key, .query = query, .value = value},
        {.log_sum_exp = lse, .out = out, .out_gradient = out_gradient}, q, k, v, bias);
    CHECK(query.row(7).isZero(0));
    CHECK(bias_gradient.row(7).isZero(0));
    CHECK((query.allFinite() && key.allFinite() && value.allFinite()));
  }
}

TEST_CASE("a hidden query that is finite until it is scaled is inert") {
  generator g(977);
  const matrix<float> k = any_matrix<matrix<float>>(g, 7, 5),
                      v = any_matrix<matrix<float>>(g, 7, 3);
  const matrix<float> came_back = any_matrix<matrix<float>>(g, 4, 3);
  matrix<float> q = any_matrix<matrix<float>>(g, 4, 5);
  const auto not_row_0 = [](attn::position at) { return at.row != 0; };
  const auto key_gradient = [&] {
    Eigen::VectorXf log_sum_exp;
    Eigen::MatrixXf dk;
    const attn::options o{.alignment = attn::top_left, .scale = 40};
    attn::options forward = o;
    forward.log_sum_exp = log_sum_exp;
    const Eigen::MatrixXf out =
        attn::scaled_dot_product_attention(q, k, v, not_row_0, attn::softcap(2), forward);
    attn::scaled_dot_product_attention_backward(
        {.key = dk}, {.log_sum_exp = log_sum_exp, .out = out, .out_gradient = came_back}, q, k, v,
        not_row_0, attn::softcap(2), o);
    return dk;
  };
  const Eigen::MatrixXf expected = key_gradient();
  q(0, 1) = std::numeric_limits<float>::max();
  const Eigen::MatrixXf found = key_gradient();
  CHECK(found.allFinite());
  CHECK((found - expected).cwiseAbs().maxCoeff() <= 1e-5f);
}

TEST_CASE("an empty row is never asked about a score that it does not have") {
  matrix<float> q = matrix<float>::Ones(3, 2), k = matrix<float>::Ones(4, 2);
  const matrix<float> v = matrix<float>::Ones(4, 2), out_gradient = matrix<float>::Ones(3, 2);
  q.row(0).setConstant(-3e38f);
  k *= 3e38f;  // the products of row 0 overflow to -inf, those of the others are large
  q.bottomRows(2) *= 1e-38f;
  const auto change = [](auto s) { return s + 1 / s; };
  vector<float> lse;
  const matrix<float> out =
      attn::scaled_dot_product_attention(q, k, v, attn::none(), change, {.log_sum_exp = lse});
  REQUIRE(lse(0) == -infinity<float>);
  matrix<float> query, key, value;
  attn::scaled_dot_product_attention_backward(
      {.key = key, .query = query, .value = value},
      {.log_sum_exp = lse, .out = out, .out_gradient = out_gradient}, q, k, v, attn::none(),
      change);
  CHECK(query.row(0).isZero(0));
  CHECK(query.allFinite());
  CHECK(key.allFinite());
  CHECK(value.allFinite());
}

}  // namespace
}  // namespace attn_test
