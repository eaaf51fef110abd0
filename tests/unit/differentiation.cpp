// AutoDiffScalar through the stages and the one call: values and derivatives, and that the backward
// pass has the same.
#include <Eigen/Core>
#include <attn/gradient.hpp>
#include <unsupported/Eigen/AutoDiff>

#include "unit/laws.hpp"

namespace attn_test {
namespace {

// What is differentiated: all entries of q, k, v, the score change's parameter and the sums of out
// and lse weighted by w, so that one gradient shows every derivative.
struct gradient_case {
  problem<long double> p;
  matrix<long double> w;
  any_mask mask = attn::none();
  bool softcap = false;
};

long double loss(const gradient_case& c) {
  problem<long double> p = c.p;
  if (c.softcap) p.change = [](auto s, place) { return 2 * std::tanh(s / 2); };
  const auto a = evaluate<long double>(p);
  long double sum = (a.out.array() * c.w.array()).sum();
  for (index i = 0; i < a.log_sum_exp.size(); ++i) {
    if (std::isfinite(a.log_sum_exp(i))) sum += a.log_sum_exp(i) * static_cast<long double>(i + 1);
  }
  return sum;
}

// By central differences of the reference, entry by entry of q, k and v.
Eigen::VectorXd gradient_of_reference(gradient_case c) {
  const long double h = tolerance::central_difference_step(tolerance::eps<long double>());
  std::vector<double> gradient;
  for (matrix<long double>* input : {&c.p.q, &c.p.k, &c.p.v}) {
    for (index i = 0; i < input->size(); ++i) {
      const long double x = input->data()[i];
      input->data()[i] = x + h;
      const long double above = loss(c);
      input->data()[i] = x - h;
      const long double below = loss(c);
      input->data()[i] = x;
      gradient.push_back(static_cast<double>((above - below) / (2 * h)));
    }
  }
  return Eigen::Map<const Eigen::VectorXd>(gradient.data(), static_cast<index>(gradient.size()));
}

template <class Dual>
struct dual_outcome {
  matrix<Dual> out;
  vector<Dual> log_sum_exp;
};

template <class Dual>
dual_outcome<Dual> by_stages(const gradient_case& c, const matrix<Dual>& q, const matrix<Dual>& k,
                             const matrix<Dual>& v, const auto& change) {
  const auto alignment = attn::offset(c.p.offset);
  const double scale = 1 / std::sqrt(static_cast<double>(q.cols()));
  const auto s = attn::apply_mask(
      attn::apply_score_mod(attn::scale(attn::score(q, k), scale), change, alignment), c.mask,
      alignment);
  return {attn::weighted_sum(attn::softmax(s), v, c.mask, alignment), attn::log_sum_exp(s)};
}

template <class Dual>
dual_outcome<Dual> by_one_call(const gradient_case& c, const matrix<Dual>& q, const matrix<Dual>& k,
                               const matrix<Dual>& v, const auto& change) {
  dual_outcome<Dual> o;
  o.out = attn::scaled_dot_product_attention(
      q, k, v, c.mask, change,
      {.alignment = attn::offset(c.p.offset), .log_sum_exp = o.log_sum_exp});
  return o;
}

template <class Dual>
Eigen::VectorXd check_loss(const gradient_case& c, const dual_outcome<Dual>& o, index variables) {
  double value = 0;
  Eigen::VectorXd gradient = Eigen::VectorXd::Zero(variables);
  const auto add = [&](const Dual& x, double weight) {
    value += weight * x.value();
    if (x.derivatives().size() != 0) gradient += weight * x.derivatives();
  };
  for (index i = 0; i < o.out.rows(); ++i) {
    for (index j = 0; j < o.out.cols(); ++j) add(o.out(i, j), static_cast<double>(c.w(i, j)));
    if (std::isfinite(o.log_sum_exp(i).value())) {
      add(o.log_sum_exp(i), static_cast<double>(i + 1));
    }
  }
  CHECK(value == Approx(static_cast<double>(loss(c))).epsilon(1e-13));
  CHECK(gradient.allFinite());
  const double error = (gradient - gradient_of_reference(c)).cwiseAbs().maxCoeff();
  CHECK(error <= tolerance::central_difference(tolerance::eps<long double>()) +
                     100 * tolerance::eps<double>());
  return gradient;
}

// The same by the backward pass.
Eigen::VectorXd gradient_by_backward(const gradient_case& c) {
  const auto narrow = [](const matrix<long double>& m) { return matrix<double>(m.cast<double>()); };
  const matrix<double> q = narrow(c.p.q), k = narrow(c.p.k), v = narrow(c.p.v), w = narrow(c.w);
  const auto change = [&](auto s) { return c.softcap ? 2 * attn::math::tanh(s / 2) : s; };
  attn::options options{.alignment = attn::offset(c.p.offset)};
  vector<double> lse, lse_gradient(q.rows());
  options.log_sum_exp = lse;
  const matrix<double> out = attn::scaled_dot_product_attention(q, k, v, c.mask, change, options);
  for (index i = 0; i < q.rows(); ++i) lse_gradient(i) = static_cast<double>(i + 1);
  matrix<double> dq, dk, dv;
  attn::scaled_dot_product_attention_backward(
      {.key = dk, .query = dq, .value = dv},
      {.log_sum_exp = lse, .log_sum_exp_gradient = lse_gradient, .out = out, .out_gradient = w}, q,
      k, v, c.mask, change, options);
  Eigen::VectorXd all(q.size() + k.size() + v.size());
  all << dq.reshaped<Eigen::RowMajor>(), dk.reshaped<Eigen::RowMajor>(),
      dv.reshaped<Eigen::RowMajor>();
  return all;
}

template <class Derivatives>
void check_gradient(const gradient_case& c) {
  using dual = Eigen::AutoDiffScalar<Derivatives>;
  const index variables = c.p.q.size() + c.p.k.size() + c.p.v.size();
  index next = 0;
  const auto lift = [&](const matrix<long double>& m) {
    matrix<dual> lifted(m.rows(), m.cols());
    for (index i = 0; i < m.size(); ++i) {
      lifted.data()[i] = dual(static_cast<double>(m.data()[i]), static_cast<int>(variables),
                              static_cast<int>(next++));
    }
    return lifted;
  };
  const matrix<dual> q = lift(c.p.q), k = lift(c.p.k), v = lift(c.p.v);
  const auto change = [&](const dual& s, attn::position) {
    return c.softcap ? attn::softcap(2)(s) : s;
  };
  const Eigen::VectorXd gradient = check_loss(c, by_stages(c, q, k, v, change), variables);
  CHECK((gradient - gradient_by_backward(c)).cwiseAbs().maxCoeff() <=
        256 * tolerance::eps<double>());
  check_loss(c, by_one_call(c, q, k, v, change), variables);
}

gradient_case any_gradient_case(generator& g, const mask_case& mask, index offset, bool softcap) {
  gradient_case c{any_problem<long double>(g, {3, 4, 2, 2}),
                  any_matrix<matrix<long double>>(g, 3, 2), mask.mask, softcap};
  // The dual numbers are of double: so are the inputs.
  for (auto* m : {&c.p.q, &c.p.k, &c.p.v}) *m = m->cast<double>().cast<long double>();
  c.p.scale = 1 / std::sqrt(2.0);
  c.p.offset = offset;
  c.p.visible = mask.visible;
  return c;
}

TEST_CASE("AutoDiffScalar: derivatives pass through, also where rows and keys are hidden") {
  generator g(167);
  constexpr int variables = 3 * 2 + 4 * 2 + 4 * 2;
  const auto cases = every_mask(g, 3, 4);
  for (const index offset : {-2, 1}) {  // with rows that see nothing, and without
    for (const mask_case& mask : cases) {
      INFO(mask.name << ", offset " << offset);
      check_gradient<Eigen::Matrix<double, variables, 1>>(
          any_gradient_case(g, mask, offset, g.chance(0.5)));
    }
  }
  // Derivatives of dynamic size: constants have none.
  for (const std::size_t n : {0u, 1u, 3u}) {
    check_gradient<Eigen::VectorXd>(any_gradient_case(g, cases[n], -1, true));
  }
}

}  // namespace
}  // namespace attn_test
