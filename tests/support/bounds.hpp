// How far off a correct implementation may be on any input, entry by entry: the errors of single
// steps, carried through the formula. For inputs that were looked for, on which the plain formula
// may happen to be exact.
#pragma once

#include "support/gradient_reference.hpp"

namespace attn_test {

// Whether doubles can be compared with long double: there are processors, and valgrind's is one,
// on which that has no more digits.
inline bool long_double_is_wider() {
  volatile long double one = 1, sum = one + std::numeric_limits<double>::epsilon() / 16;
  return sum > one;
}

// Errors of what is computed for one row. Where sums may leave the range of the type by the order
// they are taken in, the row is open: anything may come out.
template <class Scalar>
struct row_errors {
  std::vector<wide<Scalar>> score, weight;  // key by key
  wide<Scalar> log_sum_exp = 0;
  bool open = false;
};

template <class Scalar>
class bounds {
  using Wide = wide<Scalar>;

 public:
  explicit bounds(const gradient_problem<Scalar>& g) : g_(g), exact_(evaluate<Wide>(g.forward)) {
    for (index i = 0; i < g.forward.q.rows(); ++i) rows_.push_back(errors_of(i));
    if (g.kept) drop(g, exact_);
    for (index c = 0; c < g.forward.v.cols(); ++c) {
      bool infinite = false;
      largest_.push_back(largest_value(c, infinite));
      infinite_.push_back(infinite);
    }
  }

  // The first entry that is farther off than any correct implementation would be, in words. A
  // weight that underflows makes a NaN of an infinite value, and another one an infinity.
  template <class Out>
  [[nodiscard]] std::string of_out(const Out& found) const {
    matrix<Wide> allowed(exact_.out.rows(), exact_.out.cols());
    for (index i = 0; i < allowed.rows(); ++i) {
      for (index c = 0; c < allowed.cols(); ++c) {
        const bool open = infinite_[static_cast<std::size_t>(c)] &&
                          !std::isfinite(exact_.out(i, c)) &&
                          !std::isfinite(static_cast<Wide>(found.coeff(i, c)));
        const bool beyond = std::abs(exact_.out(i, c)) + out_error(i, c) > most;
        allowed(i, c) = open || beyond || row(i).open ? anything : out_error(i, c);
      }
    }
    return farther("out", exact_.out, allowed, found);
  }
  template <class Weights>
  [[nodiscard]] std::string of_weights(const Weights& found) const {
    matrix<Wide> allowed(exact_.weights.rows(), exact_.weights.cols());
    for (index i = 0; i < allowed.rows(); ++i) {
      for (index j = 0; j < allowed.cols(); ++j) {
        allowed(i, j) = row(i).open ? anything : row(i).weight[static_cast<std::size_t>(j)] + eps;
      }
    }
    return farther("weights", exact_.weights, allowed, found);
  }
  template <class Sums>
  [[nodiscard]] std::string of_log_sum_exp(const Sums& found) const {
    matrix<Wide> allowed(exact_.log_sum_exp.rows(), 1);
    for (index i = 0; i < allowed.rows(); ++i) {
      allowed(i, 0) = row(i).open ? anything : row(i).log_sum_exp;
    }
    return farther("log_sum_exp", matrix<Wide>(exact_.log_sum_exp), allowed, found);
  }

  [[nodiscard]] const answer<Wide>& exact() const { return exact_; }
  [[nodiscard]] const row_errors<Scalar>& row(index i) const {
    return rows_[static_cast<std::size_t>(i)];
  }  // Of a number of the output.
  [[nodiscard]] Wide out_error(index i, index c) const {
    Wide error = eps * largest_[static_cast<std::size_t>(c)];
    for (index j = 0; j < g_.forward.v.rows(); ++j) {
      if (!g_.sees(g_.at(i, j))) continue;
      const Wide kept = g_.kept ? static_cast<Wide>(g_.kept(g_.at(i, j))) : Wide(1);
      const auto x = std::abs(static_cast<Wide>(g_.forward.v(j, c)));
      if (std::isfinite(x))
        error += kept * (row(i).weight[static_cast<std::size_t>(j)] * x + least) + least;
    }
    return error;
  }

  static constexpr Wide anything = std::numeric_limits<Wide>::infinity();

 private:
  // Finite numbers within `allowed`, NaN and infinity where the exact ones are.
  template <class Found>
  static std::string farther(const char* name, matrix<Wide> exact, const matrix<Wide>& allowed,
                             const Found& found) {
    const bool fits = found.rows() == exact.rows() && found.cols() == exact.cols();
    for (index i = 0; fits && i < exact.rows(); ++i) {
      for (index j = 0; j < exact.cols(); ++j) {
        if (allowed(i, j) == anything) exact(i, j) = static_cast<Wide>(found.coeff(i, j));
      }
    }
    return disagreement(name, exact, allowed, found, false);
  }

  static constexpr Wide eps = std::numeric_limits<accumulator<Scalar>>::epsilon();
  static constexpr Wide least = std::numeric_limits<accumulator<Scalar>>::denorm_min();
  static constexpr Wide most = std::numeric_limits<accumulator<Scalar>>::max() / 4;

  row_errors<Scalar> errors_of(index i) const {
    row_errors<Scalar> e;
    const Wide lse = exact_.log_sum_exp(i);
    Wide above = 0, below = 0;  // what errors of scores may add to a sum of 1, and take from it
    std::vector<Wide> s;
    for (index j = 0; j < g_.forward.k.rows(); ++j) {
      const place at = g_.at(i, j);
      e.score.push_back(0);
      s.push_back(-anything);
      if (!g_.sees(at)) continue;
      e.score.back() = score_error(at, s.back(), e.open);
      const Wide weight = exact_.weights(i, j);
      if (!std::isfinite(s.back()) || !std::isfinite(lse)) continue;
      above += std::exp(s.back() + e.score.back() - lse) - weight;
      below += weight * -std::expm1(-e.score.back());
    }
    const auto terms = static_cast<Wide>(g_.forward.k.rows() + 64);  // a sum, rescaled at times
    e.log_sum_exp = std::max(std::log1p(above), -std::log1p(-below)) + terms * eps;
    if (std::isfinite(lse)) e.log_sum_exp += 8 * eps * (std::abs(lse) + std::log(terms));
    if (!std::isfinite(e.log_sum_exp)) e.log_sum_exp = anything;
    for (std::size_t j = 0; j < s.size(); ++j) {
      const Wide weight = exact_.weights(i, static_cast<index>(j));
      const Wide upper = std::exp(s[j] + e.score[j] + e.log_sum_exp - lse);
      e.weight.push_back(!std::isfinite(s[j]) || !std::isfinite(lse) ? 0
                         : upper < 1
                             ? upper - weight
                             : std::min(Wide(1), weight * std::expm1(e.score[j] + e.log_sum_exp)));
    }
    return e;
  }

  // Of the score s of a pair that sees each other: d products and their sum, the scale, the change,
  // the bias, and what exponents are rounded by.
  Wide score_error(const place& at, Wide& s, bool& open) const {
    const problem<Scalar>& p = g_.forward;
    const index d = p.q.cols();
    Wide sum = 0, magnitude = 0;
    for (index c = 0; c < d; ++c) {
      const Wide x = static_cast<Wide>(p.q(at.row, c)) * static_cast<Wide>(p.k(at.key, c));
      sum += x;
      if (std::isfinite(x)) magnitude += std::abs(x);
    }
    const Wide scale = p.scale ? static_cast<Wide>(*p.scale)
                               : 1 / std::sqrt(static_cast<Wide>(std::max<index>(1, d)));
    const Wide size = std::abs(scale) * magnitude;
    open = open || magnitude > most || size > most;
    s = scale * sum;
    Wide error = eps * static_cast<Wide>(d + 4) * size +
                 least * (static_cast<Wide>(d + 1) * std::abs(scale) + magnitude + 1);
    if (p.change) {
      const Wide before = s;
      s = p.change(before, at);
      // To both sides, and some more for a change that does not only rise or only fall between.
      error = 2 * std::max(std::abs(p.change(before + error, at) - s),
                           std::abs(p.change(before - error, at) - s)) +
              8 * eps * (std::abs(before) + std::abs(s));
    }
    if (p.bias) {
      const auto bias = static_cast<Wide>(p.bias(at));
      error += eps * (std::abs(s) + std::abs(bias));
      open = open || (std::isfinite(s) && std::abs(s) > most) ||
             (std::isfinite(bias) && std::abs(bias) > most);
      s += bias;
    }
    open = open || (std::isfinite(s) && std::abs(s) > most);
    return std::isfinite(s) ? error + 8 * eps * std::abs(s) : 0;  // not finite in any order
  }

  // The largest value of a column that some row sees.
  Wide largest_value(index c, bool& infinite) const {
    Wide largest = 0;
    for (index j = 0; j < g_.forward.v.rows(); ++j) {
      bool seen = false;
      for (index i = 0; i < g_.forward.q.rows() && !seen; ++i) seen = g_.sees(g_.at(i, j));
      const auto x = std::abs(static_cast<Wide>(g_.forward.v(j, c)));
      infinite = infinite || (seen && std::isinf(x));
      if (seen && std::isfinite(x)) largest = std::max(largest, x);
    }
    return largest;
  }

  const gradient_problem<Scalar>& g_;
  answer<Wide> exact_;
  std::vector<row_errors<Scalar>> rows_;
  std::vector<Wide> largest_;   // value of a column that some row sees
  std::vector<char> infinite_;  // whether some row sees an infinite one
};

}  // namespace attn_test
