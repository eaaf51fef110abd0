// Every tolerance of the tests, with where it comes from.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>

namespace attn_test::tolerance {

template <class Scalar, class Wide = double>
Wide eps() {
  return static_cast<Wide>(Eigen::NumTraits<Scalar>::epsilon());
}

// Twice the error of the plain two-pass formula in the same type: both err by the same kind of
// rounding, in another order. One eps of the largest value seen, for cases in which the plain
// formula happens to be exact. The weights are the output for V = identity, so it is theirs too.
template <class Scalar, class Wide>
Wide out(Wide plain_error, Wide largest_value) {
  return 2 * plain_error + eps<Scalar, Wide>() * largest_value;
}

// As above; 8 eps for a logarithm of a sum of exponentials that are each good to 2 ulp.
template <class Accumulator, class Wide>
Wide log_sum_exp(Wide plain_error, Wide lse) {
  return 2 * plain_error + 8 * eps<Accumulator, Wide>() * std::max(Wide(1), std::abs(lse));
}

// The relative error of exp(-t): 2 eps of its own, and what an eps of the argument makes of it, for
// the argument is rounded once as a score and once more on its way to a power of 2.
template <class Accumulator, class Wide>
Wide exponential(Wide t) {
  return eps<Accumulator, Wide>() * (2 + t);
}

// What the plain formula may err by, relative to the values, where no wider type can tell: scores
// err by an eps of themselves for each of a few dozen features, and weights by as much.
template <class Wide>
Wide unmeasured(Wide largest_score) {
  return 16 * eps<Wide, Wide>() * (1 + largest_score);
}

// A row of n weights: each is rounded once (half an eps of itself, so half an eps in all), and the
// sum that they were divided by erred like a random walk of n steps.
template <class Accumulator>
long double row_sum(Eigen::Index n) {
  return 4 * eps<Accumulator, long double>() *
         std::sqrt(static_cast<long double>(std::max<Eigen::Index>(n, 1)));
}

// The same sum of n products in another order: each of n steps errs by half an eps of the sum of
// the magnitudes, in either order.
template <class Accumulator>
double reordered_sum(Eigen::Index n, double sum_of_magnitudes) {
  return eps<Accumulator>() * static_cast<double>(n + 1) * sum_of_magnitudes;
}

// A gradient: a sum over many pairs. Twice the error of the plain formula in the same type, as for
// the output; and where that happens to be small, what weights err by once they are exp(score -
// log-sum-exp), an eps of the larger of the two in the exponent, with 8 more for the products.
template <class Scalar, class Wide>
Wide gradient(Wide plain_error, Wide sum_of_magnitudes, Wide largest_exponent) {
  return 2 * plain_error + eps<Scalar, Wide>() * (8 + largest_exponent) * sum_of_magnitudes;
}

// Central differences of step h in a type of the given eps: h^2 from the third derivative, eps / h
// from the cancellation; both are smallest together at h = eps^(1/3), where either is eps^(2/3).
// 100 bounds the third derivatives of the functions here, whose inputs are of size 1.
inline double central_difference_step(double eps) { return std::cbrt(eps); }
inline double central_difference(double eps) { return 100 * std::pow(eps, 2.0 / 3.0); }

}  // namespace attn_test::tolerance
