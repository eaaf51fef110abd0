// What gradients do not depend on: who runs the tasks, whose memory they work in, the order of the
// keys, what is added to all scores of a row.
#include "support/allocations.hpp"
// It comes before what it counts.
#include "gradient/support.hpp"

namespace attn_test {
namespace {

const std::vector<part> every(every_part.begin(), every_part.end());

// Calls use(problem, mask, change) for a few calls with everything that has a gradient.
template <class Scalar, class Use>
void each_call(generator& g, const Use& use) {
  for (const shape n : {shape{50, 20, 8, 4}, {2100, 1100, 5, 3}, {40, 1300, 3, 7}, {0, 5, 2, 2}}) {
    CAPTURE(n.queries, n.keys);
    auto p = any_gradient_problem<Scalar>(g, n);
    p.forward.offset = n.keys - n.queries;
    const matrix<Scalar> bias =
        any_matrix<matrix<Scalar>>(g, g.chance(0.5) ? n.queries : 1, n.keys);
    const Eigen::VectorXd table = any_matrix<Eigen::VectorXd>(g, 2 * (n.queries + n.keys) + 1, 1);
    const auto change =
        attn::compose(attn::relative_bias(table), attn::softcap(3), attn::alibi(0.01));
    use(p, any_mask(attn::sliding_window(400, 100)) & attn::as_mask(bias), change);
  }
}

std::vector<attn::executor> executors() {
  return {attn::std_threads(2), attn::std_threads(3), attn::std_threads(7),
          [](attn::index n, auto task) {  // the last first
            for (attn::index i = n - 1; i >= 0; --i) task(i);
          },
          [](attn::index n, auto task) {  // every other, then the rest
            for (attn::index i = 0; i < n; i += 2) task(i);
            for (attn::index i = 1; i < n; i += 2) task(i);
          }};
}

TEST_CASE("the same bits for any executor and any number of threads") {
  generator g(931);
  const auto check = [](const auto& p, const auto& mask, const auto& change) {
    for (const attn::dropout draws : {attn::dropout{}, attn::dropout{0.2, 5}}) {
      const auto serial = run_gradients(p, mask, change, every, {.dropout = draws});
      for (const attn::executor& executor : executors()) {
        const auto found =
            run_gradients(p, mask, change, every, {.dropout = draws, .executor = executor});
        CHECK(same_bits(serial, found, every));
      }
    }
  };
  each_call<float>(g, check);
  each_call<double>(g, check);
}

TEST_CASE("the same bits on the path that looks closer") {
  generator g(932);
  auto p = any_gradient_problem<float>(g, {1100, 1050, 4, 3});
  p.forward.k(7, 0) = std::numeric_limits<float>::quiet_NaN();
  p.forward.v(9, 1) = std::numeric_limits<float>::infinity();
  p.out_gradient(3, 0) = std::numeric_limits<float>::quiet_NaN();
  const auto serial = run_gradients(p, attn::causal(), attn::identity(), inputs_and_sink());
  for (const attn::executor& executor : executors()) {
    CHECK(same_bits(serial,
                    run_gradients(p, attn::causal(), attn::identity(), inputs_and_sink(),
                                  {.executor = executor}),
                    inputs_and_sink()));
  }
}

// Twice what a right implementation may be off by: two of its results are compared.
void check_near(const gradient_expectation<double>& e, part n, const matrix<double>& a,
                const matrix<double>& b) {
  REQUIRE(a.rows() == b.rows());
  REQUIRE(a.cols() == b.cols());
  INFO(name_of(n));
  CHECK((a - b).cwiseAbs().maxCoeff() <= 2 * static_cast<double>(e.allowed(n)));
}

TEST_CASE("keys in another order with their values: gradients in that order") {
  generator g(933);
  for (int repeat = 0; repeat < 10; ++repeat) {
    const shape n = any_shape(g, 90);
    auto p = any_gradient_problem<double>(g, n);
    matrix<double> bias = any_matrix<matrix<double>>(g, n.queries, n.keys);
    set_bias(p, bias);
    const gradient_expectation<double> expected(p);
    const std::vector<part> parts{of_query, of_key, of_value, of_bias, of_sink};
    const auto found = run_gradients(p, attn::as_mask(bias), attn::identity(), parts);
    Eigen::PermutationMatrix<Eigen::Dynamic> order(n.keys);
    order.setIdentity();
    for (index j = n.keys - 1; j > 0; --j) {
      order.applyTranspositionOnTheRight(j, g.between(0, j));
    }
    p.forward.k = order * p.forward.k;
    p.forward.v = order * p.forward.v;
    bias = bias * order.transpose();
    const auto moved = run_gradients(p, attn::as_mask(bias), attn::identity(), parts);
    check_near(expected, of_query, moved[of_query], found[of_query]);
    check_near(expected, of_sink, moved[of_sink], found[of_sink]);
    check_near(expected, of_key, moved[of_key], order * found[of_key]);
    check_near(expected, of_value, moved[of_value], order * found[of_value]);
    check_near(expected, of_bias, moved[of_bias], found[of_bias] * order.transpose());
  }
}

TEST_CASE("queries in another order: gradients in that order, sums over them as they were") {
  generator g(934);
  const auto p = any_gradient_problem<double>(g, {70, 60, 5, 4});
  const gradient_expectation<double> expected(p);
  auto turned = p;
  turned.forward.q = p.forward.q.colwise().reverse();
  turned.out_gradient = p.out_gradient.colwise().reverse();
  turned.log_sum_exp_gradient = p.log_sum_exp_gradient.colwise().reverse();
  const auto a = run_gradients(p, attn::none(), attn::identity(), inputs_and_sink());
  const auto b = run_gradients(turned, attn::none(), attn::identity(), inputs_and_sink());
  check_near(expected, of_query, b[of_query], a[of_query].colwise().reverse());
  for (const part n : {of_key, of_value, of_sink}) check_near(expected, n, b[n], a[n]);
}

TEST_CASE("what is added to all scores of a row changes nothing, and its gradient is 0") {
  generator g(935);
  const shape n{40, 50, 5, 4};
  auto p = any_gradient_problem<double>(g, n);
  p.log_sum_exp_gradient = {};
  p.forward.sink = -std::numeric_limits<double>::infinity();
  const std::vector<part> parts{of_query, of_key, of_value, of_bias};
  matrix<double> bias = any_matrix<matrix<double>>(g, n.queries, n.keys);
  set_bias(p, bias);
  const gradient_expectation<double> expected(p);
  const auto found = run_gradients(p, attn::as_mask(bias), attn::identity(), parts);
  bias.colwise() += any_matrix<vector<double>>(g, n.queries, 1);
  const auto shifted = run_gradients(p, attn::as_mask(bias), attn::identity(), parts);
  for (const part of : parts) check_near(expected, of, found[of], shifted[of]);
  const matrix<double> sums = found[of_bias].rowwise().sum();
  CHECK(sums.cwiseAbs().maxCoeff() <= static_cast<double>(n.keys * expected.allowed(of_bias)));
  // So does a number added to every key.
  auto moved = p;
  moved.forward.bias = nullptr;
  const gradient_expectation<double> without(moved);
  const auto a = run_gradients(moved, attn::none(), attn::identity(), {of_key, of_value});
  moved.forward.k.rowwise() += any_matrix<Eigen::RowVectorXd>(g, 1, n.d);
  const auto b = run_gradients(moved, attn::none(), attn::identity(), {of_key, of_value});
  for (const part of : {of_key, of_value}) check_near(without, of, a[of], b[of]);
}

TEST_CASE("gradients are linear in what came back") {
  generator g(936);
  auto p = any_gradient_problem<double>(g, {60, 55, 6, 7});
  const gradient_expectation<double> expected(p);
  const auto once =
      run_gradients(p, attn::causal(), attn::softcap(2), inputs_and_sink(), {.dropout = {0.3, 1}});
  p.out_gradient *= 4;
  p.log_sum_exp_gradient *= 4;
  const auto scaled =
      run_gradients(p, attn::causal(), attn::softcap(2), inputs_and_sink(), {.dropout = {0.3, 1}});
  for (const part n : inputs_and_sink()) {  // 4 rounds nothing
    CHECK(same_bits(scaled[n], matrix<double>(once[n] * 4)));
  }
}

TEST_CASE("with a workspace and the caller's memory, a call allocates nothing after the first") {
  generator g(937);
  for (const shape n : {shape{50, 60, 8, 4}, {1, 1, 1, 1}, {1100, 1200, 16, 24}}) {
    const auto p = any_gradient_problem<float>(g, n);
    const matrix<float>& q = p.forward.q;
    const matrix<float>&k = p.forward.k, &v = p.forward.v;
    const matrix<float> bias = any_matrix<matrix<float>>(g, n.queries, n.keys);
    const Eigen::VectorXf table = Eigen::VectorXf::Ones(2 * (n.queries + n.keys) + 1);
    const auto mask = attn::causal() & attn::as_mask(bias);
    const auto change = attn::compose(attn::relative_bias(table), attn::softcap(2));
    attn::workspace workspace;
    vector<float> lse;
    auto options = options_of(p, {.dropout = {0.1, 3}, .workspace = &workspace});
    options.log_sum_exp = lse;
    const matrix<float> out = attn::scaled_dot_product_attention(q, k, v, mask, change, options);
    matrix<float> dq, dk, dv, dbias;
    vector<float> dtable, dsink;
    const auto call = [&] {
      attn::scaled_dot_product_attention_backward(
          {.bias = dbias,
           .key = dk,
           .query = dq,
           .relative_bias = dtable,
           .sink = dsink,
           .value = dv},
          {.log_sum_exp = lse, .out = out, .out_gradient = p.out_gradient}, q, k, v, mask, change,
          options);
    };
    call();
    CHECK(allocations_of(call) == 0);
  }
}

TEST_CASE("a workspace does not grow with the lengths") {
  generator g(938);
  const auto bytes = [&](shape n) {
    const auto p = any_gradient_problem<float>(g, n);
    attn::workspace workspace;
    vector<float> lse;
    auto options = options_of(p, {});
    options.log_sum_exp = lse;
    const auto& [q, k, v] = std::tie(p.forward.q, p.forward.k, p.forward.v);
    const matrix<float> out =
        attn::scaled_dot_product_attention(q, k, v, attn::causal(), attn::softcap(2), options);
    options.workspace = &workspace;
    matrix<float> dq, dk, dv;
    attn::scaled_dot_product_attention_backward(
        {.key = dk, .query = dq, .value = dv},
        {.log_sum_exp = lse, .out = out, .out_gradient = p.out_gradient}, q, k, v, attn::causal(),
        attn::softcap(2), options);
    return workspace.bytes();
  };
  const std::size_t some = bytes({300, 300, 16, 16});
  CHECK(some > 0);
  CHECK(bytes({3000, 300, 16, 16}) == some);
  CHECK(bytes({300, 3000, 16, 16}) == some);
  CHECK(bytes({2500, 2500, 16, 16}) == some);
}

// Σ_j dv_j = Σ_i dO_i, for the rows of weights sum to 1, however large the scores: those on the way
// back are rounded as those on the way forward.
template <class Scalar>
void check_sum_of_weights(double size) {
  generator g(941);
  for (const index d : {3, 4, 17}) {
    for (const bool biased : {false, true}) {
      CAPTURE(size, d, biased);
      auto p = any_gradient_problem<Scalar>(g, {40, 150, d, 2});
      p.forward.scale = std::nullopt;
      p.forward.sink = -std::numeric_limits<double>::infinity();
      p.forward.q *= static_cast<Scalar>(size);
      const matrix<Scalar> bias =
          any_matrix<matrix<Scalar>>(g, 40, 150) * static_cast<Scalar>(biased ? size : 0);
      vector<Scalar> lse;
      matrix<Scalar> out, dv;
      const auto both = [&](const auto& mask) {
        out = attn::scaled_dot_product_attention(p.forward.q, p.forward.k, p.forward.v, mask,
                                                 {.log_sum_exp = lse});
        attn::scaled_dot_product_attention_backward(
            {.value = dv}, {.log_sum_exp = lse, .out = out, .out_gradient = p.out_gradient},
            p.forward.q, p.forward.k, p.forward.v, mask);
      };
      biased ? both(attn::as_mask(bias)) : both(attn::none());
      const double error = (dv.colwise().sum() - p.out_gradient.colwise().sum())
                               .template cast<double>()
                               .cwiseAbs()
                               .maxCoeff();
      const double eps = tolerance::eps<Scalar>();
      CHECK(error <= 40 * eps *
                         (16 + std::abs(static_cast<double>(lse.cwiseAbs().maxCoeff())) *
                                   (size < 1e4 ? 1 : 0)));
    }
  }
}

TEST_CASE("weights of any scores sum to 1 on the way back") {
  for (const double size : {1.0, 1e8, 1e30}) {
    check_sum_of_weights<float>(size);
    check_sum_of_weights<double>(size);
  }
}

// With one result a query, dv_ji = P_ij: few queries are summed in another order on the way
// forward, which for such scores decides what a weight is.
template <class Scalar>
void check_few_weights(double size, index queries, bool reproducible) {
  CAPTURE(size, queries, reproducible);
  generator g(942);
  const matrix<Scalar> q = any_matrix<matrix<Scalar>>(g, queries, 64) * static_cast<Scalar>(size);
  const matrix<Scalar> k = any_matrix<matrix<Scalar>>(g, 640, 64);
  const matrix<Scalar> v = any_matrix<matrix<Scalar>>(g, 640, queries);
  const matrix<Scalar> out_gradient = matrix<Scalar>::Identity(queries, queries);
  vector<Scalar> lse;
  const attn::options options{.log_sum_exp = lse, .reproducible = reproducible};
  const matrix<Scalar> out = attn::scaled_dot_product_attention(q, k, v, options);
  matrix<Scalar> dq, dk, dv;
  attn::scaled_dot_product_attention_backward(
      {.key = dk, .query = dq, .value = dv},
      {.log_sum_exp = lse, .out = out, .out_gradient = out_gradient}, q, k, v, options);
  CHECK((dv.array() >= 0).all());
  CHECK((dv.array() <= 1).all());
  CHECK(dq.allFinite());
  CHECK(dk.allFinite());
  if (reproducible) {
    CHECK((dv.colwise().sum().array() - 1).abs().maxCoeff() <= 64 * tolerance::eps<Scalar>());
  }
}

TEST_CASE("weights of few queries are between 0 and 1 on the way back") {
  for (const double size : {1e6, 1e10, 1e14, 1e18}) {
    for (const index queries : {1, 3, 8}) {
      check_few_weights<float>(size, queries, false);
      check_few_weights<float>(size, queries, true);
      check_few_weights<double>(size, queries, false);
    }
  }
}

}  // namespace
}  // namespace attn_test
