// Forward mode: the result is the forward pass's, and what it changes by agrees with differences,
// with the backward pass, and head by head; what is hidden stays so.
#include <attn/tangent.hpp>

#include "gradient/heads_support.hpp"
#include "gradient/support.hpp"
#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace attn_test {
namespace {

template <class T>
constexpr T infinity = std::numeric_limits<T>::infinity();

template <class Scalar>
struct direction {
  matrix<Scalar> query, key, value;

  [[nodiscard]] attn::tangents given() const {
    return {.key = key, .query = query, .value = value};
  }
};

template <class Scalar>
direction<Scalar> any_direction(generator& g, shape n) {
  return {any_matrix<matrix<Scalar>>(g, n.queries, n.d), any_matrix<matrix<Scalar>>(g, n.keys, n.d),
          any_matrix<matrix<Scalar>>(g, n.keys, n.dv)};
}

template <class A, class B>
double inner(const A& a, const B& b) {
  return (a.template cast<double>().array() * b.template cast<double>().array()).sum();
}

// <dO, Ȯ> + <dlse, lse'> = <dq, q'> + <dk, k'> + <dv, v'>: both modes see one Jacobian.
template <class Scalar, class M, class F>
void check_both_modes(generator& g, shape n, const M& mask, const F& change,
                      attn::options options) {
  const auto p = any_gradient_problem<Scalar>(g, n);
  const auto by = any_direction<Scalar>(g, n);
  const vector<Scalar> of_lse = any_matrix<vector<Scalar>>(g, n.queries, 1);
  vector<Scalar> lse, jvp_lse;
  options.log_sum_exp = lse;
  const matrix<Scalar> out = attn::scaled_dot_product_attention(p.forward.q, p.forward.k,
                                                                p.forward.v, mask, change, options);
  options.log_sum_exp = jvp_lse;
  const auto [jvp_out, out_tangent, lse_tangent] = attn::scaled_dot_product_attention_jvp(
      by.given(), p.forward.q, p.forward.k, p.forward.v, mask, change, options);
  matrix<Scalar> query, key, value;
  attn::scaled_dot_product_attention_backward({.key = key, .query = query, .value = value},
                                              {.log_sum_exp = lse,
                                               .log_sum_exp_gradient = of_lse,
                                               .out = out,
                                               .out_gradient = p.out_gradient},
                                              p.forward.q, p.forward.k, p.forward.v, mask, change,
                                              options);

  const double eps = tolerance::eps<Scalar>();
  const double forward = inner(p.out_gradient, out_tangent) + inner(of_lse, lse_tangent);
  const double backward = inner(query, by.query) + inner(key, by.key) + inner(value, by.value);
  const double size =
      p.out_gradient.template cast<double>().norm() *
          (1 + out_tangent.template cast<double>().norm()) +
      of_lse.template cast<double>().norm() * (1 + lse_tangent.template cast<double>().norm());
  CHECK(std::abs(forward - backward) <= 64 * eps * size);
  CHECK(out_tangent.allFinite());
  CHECK((jvp_out - out).cwiseAbs().maxCoeff() <= Scalar(16 * eps));
  for (index i = 0; i < n.queries; ++i) {
    const bool same = jvp_lse(i) == lse(i);  // -inf among them
    CHECK((same || std::abs(jvp_lse(i) - lse(i)) <= Scalar(16 * eps) * (1 + std::abs(lse(i)))));
    if (!std::isinf(lse(i))) continue;
    CHECK(out_tangent.row(i).isZero(0));
    CHECK(lse_tangent(i) == Scalar(0));
  }
}

template <class Scalar>
void check_shapes(std::uint64_t seed) {
  generator g(seed);
  const auto smooth = [](auto s) { return s * s / 4 + s; };
  for (const shape n :
       {shape{1, 1, 1, 1}, {16, 17, 3, 16}, {49, 130, 16, 7}, {5, 400, 64, 80}, {100, 33, 17, 1}}) {
    const auto above = attn::offset(g.between(-3, n.keys));
    check_both_modes<Scalar>(g, n, attn::none(), attn::identity(), {});
    check_both_modes<Scalar>(g, n, attn::causal(), smooth, {.alignment = above});
    check_both_modes<Scalar>(g, n, attn::sliding_window(3, 1), attn::softcap(2),
                             {.alignment = above, .scale = -0.3, .sink = 0.5});
    const matrix<Scalar> bias = any_matrix<matrix<Scalar>>(g, n.queries, n.keys);
    check_both_modes<Scalar>(g, n, attn::causal() & bias,
                             attn::compose(attn::alibi(0.1), attn::softcap(3)),
                             {.alignment = above, .dropout = {.probability = 0.3, .seed = 5}});
  }
}

TEST_CASE("forward and backward mode agree") {
  check_shapes<float>(701);
  check_shapes<double>(702);
}

// The formula in two passes of one type, for causal attention: what the result and the log-sum-exp
// change by, the sums of the magnitudes of their terms, and the largest score.
template <class Number>
struct plain_tangents {
  matrix<Number> out, out_terms;
  vector<Number> log_sum_exp, log_sum_exp_terms;
  Number largest = 0;
};

template <class Number, class Scalar>
plain_tangents<Number> plain_jvp(const problem<Scalar>& p, const direction<Scalar>& by) {
  const auto as = [](const matrix<Scalar>& m) { return matrix<Number>(m.template cast<Number>()); };
  const matrix<Number> q = as(p.q), k = as(p.k), v = as(p.v), v_tangent = as(by.value);
  const Number scale = 1 / std::sqrt(static_cast<Number>(q.cols()));
  matrix<Number> weights = scale * (q * k.transpose());
  const matrix<Number> scores_tangent =
      scale * (as(by.query) * k.transpose() + q * as(by.key).transpose());
  plain_tangents<Number> plain;
  for (index i = 0; i < weights.rows(); ++i) {
    for (index j = i + 1; j < weights.cols(); ++j) weights(i, j) = -infinity<Number>;
    const Number highest = weights.row(i).maxCoeff();
    plain.largest = std::max(plain.largest, weights.row(i).head(i + 1).cwiseAbs().maxCoeff());
    weights.row(i) = (weights.row(i).array() - highest).exp();
    weights.row(i) /= weights.row(i).sum();
  }
  const matrix<Number> sees = weights.cwiseProduct(scores_tangent);
  const matrix<Number> out = weights * v;
  plain.log_sum_exp = sees.rowwise().sum();
  plain.log_sum_exp_terms = sees.cwiseAbs().rowwise().sum();
  plain.out = sees * v + weights * v_tangent - plain.log_sum_exp.asDiagonal() * out;
  plain.out_terms = sees.cwiseAbs() * v.cwiseAbs() + weights * v_tangent.cwiseAbs() +
                    plain.log_sum_exp_terms.asDiagonal() * (weights * v.cwiseAbs());
  return plain;
}

// As of gradients, whose sums are of the same kind.
template <class Scalar>
void check_errors(generator& g, shape n) {
  const auto p = any_problem<Scalar>(g, n);
  const auto by = any_direction<Scalar>(g, n);
  using wide = long double;
  const auto exact = plain_jvp<wide>(p, by);
  const auto plain = plain_jvp<Scalar>(p, by);
  const auto [out, out_tangent, lse_tangent] = attn::scaled_dot_product_attention_jvp(
      by.given(), p.q, p.k, p.v, attn::causal(), {.alignment = attn::top_left});
  const auto check = [&](const auto& found, const auto& of_wide, const auto& of_plain,
                         const auto& terms) {
    const auto error = [&](const auto& m) {
      return (m.template cast<wide>() - of_wide).cwiseAbs().eval();
    };
    const wide plain_error = error(of_plain).maxCoeff();
    const auto errors = error(found);
    for (index i = 0; i < errors.size(); ++i) {
      const wide allowed = tolerance::gradient<Scalar, wide>(
          plain_error, terms(i % terms.rows(), i / terms.rows()), exact.largest);
      CHECK(errors(i % terms.rows(), i / terms.rows()) <= allowed);
    }
  };
  check(out_tangent, exact.out, plain.out, exact.out_terms);
  check(lse_tangent, exact.log_sum_exp, plain.log_sum_exp, exact.log_sum_exp_terms);
}

TEST_CASE("tangents err no more than gradients do") {
  generator g(709);
  for (const shape n : {shape{1, 1, 1, 1}, {40, 40, 3, 5}, {30, 300, 64, 17}, {150, 150, 33, 8}}) {
    check_errors<float>(g, n);
    check_errors<double>(g, n);
  }
}

TEST_CASE("what the result changes by is what differences say") {
  generator g(703);
  const shape n{20, 150, 5, 7};
  const auto p = any_problem<double>(g, n);
  const auto by = any_direction<double>(g, n);
  const auto change = attn::compose(attn::softcap(2), [](auto s) { return s * s / 4 + s; });
  const double h = tolerance::central_difference_step(tolerance::eps<double>());
  const auto at = [&](double step, vector<double>& lse) {
    const matrix<double> q = p.q + step * by.query, k = p.k + step * by.key;
    const matrix<double> v = p.v + step * by.value;
    return matrix<double>(attn::scaled_dot_product_attention(
        q, k, v, attn::causal(), change, {.alignment = attn::offset(4), .log_sum_exp = lse}));
  };
  vector<double> lse_above, lse_below;
  const matrix<double> above = at(h, lse_above), below = at(-h, lse_below);
  const auto [out, out_tangent, lse_tangent] = attn::scaled_dot_product_attention_jvp(
      by.given(), p.q, p.k, p.v, attn::causal(), change, {.alignment = attn::offset(4)});
  const double allowed = tolerance::central_difference(tolerance::eps<double>());
  CHECK(((above - below) / (2 * h) - out_tangent).cwiseAbs().maxCoeff() <= allowed);
  CHECK(((lse_above - lse_below) / (2 * h) - lse_tangent).cwiseAbs().maxCoeff() <= allowed);
}

TEST_CASE("those left out are 0, and directions add up") {
  generator g(704);
  const shape n{50, 140, 16, 8};
  const auto p = any_problem<double>(g, n);
  const auto by = any_direction<double>(g, n);
  const auto tangent = [&](const attn::tangents& given) {
    return matrix<double>(attn::scaled_dot_product_attention_jvp(given, p.q, p.k, p.v).out_tangent);
  };
  const matrix<double> sum =
      tangent({.query = by.query}) + tangent({.key = by.key}) + tangent({.value = by.value});
  CHECK((sum - tangent(by.given())).cwiseAbs().maxCoeff() <= 64 * tolerance::eps<double>());
  CHECK(tangent({}).isZero(0));
}

TEST_CASE("nothing that is hidden reaches a row") {
  generator g(705);
  const shape n{50, 140, 16, 8};
  const double nan = std::numeric_limits<double>::quiet_NaN();
  auto p = any_problem<double>(g, n);
  auto by = any_direction<double>(g, n);
  const auto seen_by_most = [](index query, index key) { return key != 77 || query == 3; };
  const auto tangents = [&] {
    return attn::scaled_dot_product_attention_jvp(by.given(), p.q, p.k, p.v, seen_by_most,
                                                  {.alignment = attn::top_left});
  };
  const auto clean = tangents();
  for (matrix<double>* m : {&p.k, &p.v, &by.key, &by.value}) {
    const auto kept = m->row(77).eval();
    m->row(77).setConstant(nan);
    const auto spoilt = tangents();
    for (index i = 0; i < n.queries; ++i) {
      const double error =
          (spoilt.out_tangent.row(i) - clean.out_tangent.row(i)).cwiseAbs().maxCoeff();
      CHECK((i == 3 ? std::isnan(error) : error <= 64 * tolerance::eps<double>()));
    }
    m->row(77) = kept;
  }
}

TEST_CASE("heads are as one by one, on any executor") {
  generator g(706);
  const attn::heads_shape of_query{2, 4, 60, 16}, of_key{2, 2, 140, 16}, of_value{2, 2, 140, 8};
  const auto q = any_heads<float>(g, of_query), dq = any_heads<float>(g, of_query);
  const auto k = any_heads<float>(g, of_key), dk = any_heads<float>(g, of_key);
  const auto v = any_heads<float>(g, of_value), dv = any_heads<float>(g, of_value);
  const std::vector<int> lengths = {140, 31};
  attn::heads_array<float> lse;
  const auto all = [&](const attn::executor& executor) {
    return attn::scaled_dot_product_attention_jvp({.key = dk, .query = dq, .value = dv}, q, k, v,
                                                  attn::causal(),
                                                  {.alignment = attn::bottom_right,
                                                   .executor = executor,
                                                   .key_lengths = lengths,
                                                   .log_sum_exp = lse});
  };
  const auto found = all({}), by_threads = all(attn::std_threads(3));
  for (index b = 0; b < 2; ++b) {
    for (index h = 0; h < 4; ++h) {
      const auto keys = [&](const auto& heads) {
        return matrix<float>(heads.head(b, h / 2).topRows(lengths[static_cast<std::size_t>(b)]));
      };
      const auto one = attn::scaled_dot_product_attention_jvp(
          {.key = keys(dk), .query = matrix<float>(dq.head(b, h)), .value = keys(dv)},
          matrix<float>(q.head(b, h)), keys(k), keys(v), attn::causal(),
          {.alignment = attn::bottom_right});
      CHECK(one.out == found.out.head(b, h));
      CHECK(one.out_tangent == found.out_tangent.head(b, h));
      CHECK(one.log_sum_exp_tangent == found.log_sum_exp_tangent.head(b, h));
      CHECK(by_threads.out_tangent.head(b, h) == found.out_tangent.head(b, h));
    }
  }
}

TEST_CASE("keys of one sequence for a batch of queries of different lengths") {
  generator g(707);
  const auto q = any_heads<double>(g, {3, 2, 7, 4}), dq = any_heads<double>(g, {3, 2, 7, 4});
  const auto k = any_heads<double>(g, {1, 1, 9, 4}), dk = any_heads<double>(g, {1, 1, 9, 4});
  const auto v = any_heads<double>(g, {1, 1, 9, 3}), dv = any_heads<double>(g, {1, 1, 9, 3});
  const std::vector<int> lengths = {7, 0, 3};
  const auto found = attn::scaled_dot_product_attention_jvp(
      {.key = dk, .query = dq, .value = dv}, q, k, v, attn::causal(),
      {.alignment = attn::bottom_right, .query_lengths = lengths});
  const std::vector<int> key_lengths = {9, 4, 6};
  const auto on_the_left = attn::scaled_dot_product_attention_jvp(
      {.key = dk, .query = dq, .value = dv}, q, k, v, attn::causal(),
      {.alignment = attn::bottom_right,
       .key_lengths = key_lengths,
       .padding = attn::padding::left,
       .query_lengths = lengths});
  const auto check = [&](const auto& all, index b, index h, index first, index first_key) {
    const index n = lengths[static_cast<std::size_t>(b)];
    const auto tokens = [&](const auto& of) { return of.head(b, h).middleRows(first, n); };
    const auto keys = [&](const auto& of) {
      const index count = first_key == 0 ? 9 : key_lengths[static_cast<std::size_t>(b)];
      return matrix<double>(of.head(0, 0).middleRows(first_key, count));
    };
    const auto one = attn::scaled_dot_product_attention_jvp(
        {.key = keys(dk), .query = matrix<double>(tokens(dq)), .value = keys(dv)},
        matrix<double>(tokens(q)), keys(k), keys(v), attn::causal(),
        {.alignment = attn::bottom_right});
    const auto are_padded = [&](const auto& heads, const auto& expected) {
      matrix<double> padded = matrix<double>::Zero(7, heads.width());
      padded.middleRows(first, n) = expected;
      CHECK(heads.head(b, h) == padded);
    };
    CAPTURE(b, h, first, first_key);
    are_padded(all.out.view(), one.out);
    are_padded(all.out_tangent.view(), one.out_tangent);
    are_padded(all.log_sum_exp_tangent.view(), one.log_sum_exp_tangent);
  };
  for (index b = 0; b < 3; ++b) {
    const auto at = static_cast<std::size_t>(b);
    for (index h = 0; h < 2; ++h) {
      check(found, b, h, 0, 0);
      check(on_the_left, b, h, 7 - lengths[at], 9 - key_lengths[at]);
    }
  }
}

TEST_CASE("no keys, no queries, no heads, no sequences: nothing changes") {
  generator g(708);
  for (const auto& [batch, heads, queries, keys] :
       {std::tuple{2, 2, 3, 0}, {2, 2, 0, 3}, {2, 0, 3, 3}, {0, 2, 3, 3}}) {
    const auto q = any_heads<float>(g, {batch, heads, queries, 4});
    const auto k = any_heads<float>(g, {batch, heads, keys, 4});
    const auto v = any_heads<float>(g, {batch, heads, keys, 5});
    const auto found =
        attn::scaled_dot_product_attention_jvp({.key = k, .query = q, .value = v}, q, k, v);
    CHECK(found.out_tangent.shape() == attn::heads_shape{batch, heads, queries, 5});
    const auto is_zero = [](const attn::heads_array<float>& of) {
      return std::all_of(of.data(), of.data() + of.shape().size(), [](float x) { return x == 0; });
    };
    CHECK(is_zero(found.out_tangent));
    CHECK(is_zero(found.log_sum_exp_tangent));
  }
}

TEST_CASE("what does not fit is refused, and nothing is written") {
  const matrix<float> q = matrix<float>::Ones(3, 4), k = matrix<float>::Ones(5, 4);
  const matrix<float> v = matrix<float>::Ones(5, 2);
  vector<float> lse = vector<float>::Constant(1, 7);
  const auto call = [&](const attn::tangents& by, const attn::options& options) {
    return [&, by, options] { attn::scaled_dot_product_attention_jvp(by, q, k, v, options); };
  };
  CHECK(missing(call({.query = k}, {.log_sum_exp = lse}),
                {"tangents.query has 5 rows and 4 columns, it should have 3 and 4"})
            .empty());
  const matrix<double> wide = matrix<double>::Ones(5, 2);
  CHECK(missing(call({.value = wide}, {.log_sum_exp = lse}),
                {"tangents.value has elements of type double, they should be float"})
            .empty());
  matrix<float> weights;
  CHECK(missing(call({}, {.log_sum_exp = lse, .weights = weights}),
                {"options.weights is not for calls with tangents"})
            .empty());
  CHECK(lse.size() == 1);
  CHECK(lse(0) == 7);
  matrix<float> moved = matrix<float>::Ones(3, 4);
  CHECK(missing(call({.query = moved}, {.log_sum_exp = moved.col(1)}),
                {"options.log_sum_exp overlaps tangents.query"})
            .empty());
  CHECK((moved.array() == 1).all());
}

TEST_CASE("a score of -inf that a change returns has no tangent") {
  generator g(707);
  const shape n{20, 30, 5, 4};
  const auto p = any_problem<float>(g, n);
  const auto by = any_direction<float>(g, n);
  const auto change = [](auto s, attn::position at) {
    using S = decltype(s);
    return (at.key > at.query ? S(-INFINITY) : s) * S(0.5f);
  };
  const auto found = attn::scaled_dot_product_attention_jvp(by.given(), p.q, p.k, p.v, attn::none(),
                                                            change, {.alignment = attn::top_left});
  CHECK(found.out_tangent.allFinite());
  CHECK(found.log_sum_exp_tangent.allFinite());
}

}  // namespace
}  // namespace attn_test
