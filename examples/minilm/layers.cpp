#include "layers.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <unsupported/Eigen/SpecialFunctions>

namespace minilm {

// In steps of 128 inputs: the rounding error of a running sum grows with its length, and for sums
// of 384 and 1536 products that is the largest error of the whole encoder. Steps make it a third of
// that.
activations linear::operator()(const activations& x) const {
  constexpr Eigen::Index step = 128;
  activations y(x.rows(), weight.rows());
  y.rowwise() = bias;
  for (Eigen::Index first = 0; first < x.cols(); first += step) {
    const Eigen::Index count = std::min(step, x.cols() - first);
    y.noalias() += x.middleCols(first, count) * weight.middleCols(first, count).transpose();
  }
  return y;
}

activations layer_norm::operator()(const activations& x) const {
  activations y(x.rows(), x.cols());
  for (Eigen::Index i = 0; i < x.rows(); ++i) {
    y.row(i) = x.row(i).array() - x.row(i).mean();
    const float variance = y.row(i).squaredNorm() / static_cast<float>(x.cols());
    y.row(i) *= 1 / std::sqrt(variance + eps);
    y.row(i) = y.row(i).cwiseProduct(weight) + bias;
  }
  return y;
}

activations gelu(const activations& x) {
  constexpr float inverse_sqrt_2 = 1 / std::numbers::sqrt2_v<float>;
  return 0.5f * x.array() * (1 + (x.array() * inverse_sqrt_2).erf());
}

}  // namespace minilm
