#include "layers.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <unsupported/Eigen/SpecialFunctions>

namespace minilm {

// The product of many rows goes in steps of 192 inputs: the rounding error of a running sum grows
// with its length, and for sums of 384 and 1536 products that is the largest error of the whole
// encoder. A product of matrices arranges the weights for itself first, which for few rows takes
// longer than to multiply: each row of weights is then read once, as it lies.
void linear::operator()(const activations& x, activations& y) const {
  constexpr Eigen::Index few = 16, step = 192;
  y.resize(x.rows(), weight.rows());
  if (x.rows() <= few) {
    for (Eigen::Index output = 0; output < weight.rows(); ++output) {
      y.col(output).noalias() = x * weight.row(output).transpose();
    }
    y.rowwise() += bias;
    return;
  }
  y.rowwise() = bias;
  for (Eigen::Index first = 0; first < x.cols(); first += step) {
    const Eigen::Index count = std::min(step, x.cols() - first);
    y.noalias() += x.middleCols(first, count) * weight.middleCols(first, count).transpose();
  }
}

void layer_norm::operator()(activations& x) const {
  for (Eigen::Index i = 0; i < x.rows(); ++i) {
    x.row(i).array() -= x.row(i).mean();
    const float variance = x.row(i).squaredNorm() / static_cast<float>(x.cols());
    x.row(i) *= 1 / std::sqrt(variance + eps);
    x.row(i) = x.row(i).cwiseProduct(weight) + bias;
  }
}

void gelu(activations& x) {
  constexpr float inverse_sqrt_2 = 1 / std::numbers::sqrt2_v<float>;
  x.array() *= 0.5f * (1 + (x.array() * inverse_sqrt_2).erf());
}

}  // namespace minilm
