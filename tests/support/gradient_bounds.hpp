// How far off gradients may be on any input, entry by entry, as bounds.hpp has it for the forward
// pass: each error of a step times what it is multiplied by on its way into a sum.
#pragma once

#include "support/bounds.hpp"

namespace attn_test {

// One head of one sequence. Sums over several are off by the sum of what each may be off.
template <class Scalar>
class gradient_bounds {
  using Wide = wide<Scalar>;

 public:
  gradient_bounds(const gradient_problem<Scalar>& g, const bounds<Scalar>& forward)
      : g_(g),
        forward_(forward),
        sums_(g.forward.q.rows(), g.forward.k.rows(), g.forward.q.cols(), g.forward.v.cols(), 0),
        exact_(evaluate_gradients<Wide>(g)) {
    const problem<Scalar>& p = g.forward;
    scale_ = p.scale ? std::abs(static_cast<Wide>(*p.scale))
                     : 1 / std::sqrt(static_cast<Wide>(std::max<index>(1, p.q.cols())));
    terms_ = static_cast<Wide>(p.q.rows() + p.k.rows() + p.v.cols() + 64);
    for (index i = 0; i < p.q.rows(); ++i) add_row(i);
  }

  [[nodiscard]] const matrix<Wide>& exact(part n) const { return exact_.sum[n]; }
  [[nodiscard]] const matrix<Wide>& allowed(part n) const { return sums_.sum[n]; }

 private:
  // A number that should be `size` at most, and how far off it may be.
  struct inexact {
    Wide size = 0, error = 0;
  };

  void add_row(index i) {
    const problem<Scalar>& p = g_.forward;
    inexact delta;
    for (index c = 0; c < p.v.cols(); ++c) {
      const auto dout = std::abs(static_cast<Wide>(g_.out_gradient(i, c)));
      delta.size += dout * std::abs(forward_.exact().out(i, c));
      delta.error += dout * forward_.out_error(i, c);
    }
    if (g_.log_sum_exp_gradient.size() > 0) {
      delta.size += std::abs(static_cast<Wide>(g_.log_sum_exp_gradient(i)));
    }
    delta.error += terms_ * eps * delta.size;
    const Wide lse = forward_.exact().log_sum_exp(i);
    if (std::isfinite(p.sink) && std::isfinite(lse)) {
      const auto sink = static_cast<Wide>(p.sink);
      const Wide weight = std::exp(sink - lse);
      const Wide error =
          std::min(Wide(1), weight * std::expm1(forward_.row(i).log_sum_exp + terms_ * eps +
                                                8 * eps * (std::abs(sink) + std::abs(lse))));
      sums_.sum[of_sink](0, 0) += product({weight, error}, delta).error;
    }
    for (index j = 0; j < p.k.rows(); ++j) {
      if (g_.sees(g_.at(i, j))) add_pair(i, j, delta);
    }
  }

  void add_pair(index i, index j, const inexact& delta) {
    const problem<Scalar>& p = g_.forward;
    const place at = g_.at(i, j);
    const auto n = static_cast<std::size_t>(j);
    const Wide kept = g_.kept ? static_cast<Wide>(g_.kept(at)) : Wide(1);
    const inexact weight{forward_.exact().weights(i, j), forward_.row(i).weight[n] + least};
    inexact upstream;
    for (index c = 0; c < p.v.cols(); ++c) {
      const auto dout = std::abs(static_cast<Wide>(g_.out_gradient(i, c)));
      upstream.size += kept * dout * std::abs(static_cast<Wide>(p.v(j, c)));
      sums_.sum[of_value](j, c) += product({kept * dout, 0}, weight).error;
    }
    upstream.error = terms_ * eps * upstream.size;
    const inexact after =
        product(weight, {upstream.size + delta.size, upstream.error + delta.error});
    sums_.sum[of_bias](i, j) += after.error;
    const inexact before = product(after, slope(at, forward_.row(i).score[n]));
    for (index c = 0; c < p.q.cols(); ++c) {
      const auto q = std::abs(static_cast<Wide>(p.q(i, c))) * scale_;
      const auto k = std::abs(static_cast<Wide>(p.k(j, c))) * scale_;
      sums_.sum[of_query](i, c) += product(before, {k, 0}).error;
      sums_.sum[of_key](j, c) += product(before, {q, 0}).error;
    }
  }

  // The derivative of the score change, at a score that is off by no more than `error` (which is
  // that after the change).
  [[nodiscard]] inexact slope(const place& at, Wide error) const {
    if (!g_.derivative) return {1, 0};
    Wide x = 0;
    for (index c = 0; c < g_.forward.q.cols(); ++c) {
      x += static_cast<Wide>(g_.forward.q(at.row, c)) * static_cast<Wide>(g_.forward.k(at.key, c));
    }
    x *= g_.forward.scale ? static_cast<Wide>(*g_.forward.scale) : scale_;
    const Wide here = g_.derivative(x, at);
    const Wide apart = std::max(std::abs(g_.derivative(x + error, at) - here),
                                std::abs(g_.derivative(x - error, at) - here));
    return {std::abs(here), 2 * apart + 16 * eps * (1 + std::abs(here))};
  }

  [[nodiscard]] Wide rounded(Wide size) const { return terms_ * eps * size + least; }
  [[nodiscard]] inexact product(const inexact& a, const inexact& b) const {
    const Wide size = a.size * b.size;
    return {size, a.error * (b.size + b.error) + a.size * b.error + rounded(size)};
  }

  static constexpr Wide eps = std::numeric_limits<Scalar>::epsilon();
  static constexpr Wide least = std::numeric_limits<Scalar>::min();

  const gradient_problem<Scalar>& g_;
  const bounds<Scalar>& forward_;
  gradient_sums<Wide> sums_;  // of errors
  gradient_sums<Wide> exact_;
  Wide scale_ = 1, terms_ = 0;
};

}  // namespace attn_test
