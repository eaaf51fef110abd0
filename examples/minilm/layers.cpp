#include "layers.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <unsupported/Eigen/SpecialFunctions>

namespace minilm {

namespace {

// The rounding error of a running sum grows with its length, and for sums of 384 and 1536 products
// that is the largest error of the whole encoder: products go in steps of so many inputs.
constexpr Eigen::Index step = 192;

// A product of matrices arranges the weights for itself first, which for few tokens takes longer
// than to multiply. Here weights are read once, as they lie: each is multiplied by a vector of its
// input in all tokens.
constexpr Eigen::Index few = 16;
constexpr Eigen::Index at_once = 6;  // outputs, whose sums fill the registers
using of_tokens = Eigen::Array<float, few, 1>;

// y += x Wᵀ for some outputs; `x` has a column a token.
template <Eigen::Index Outputs>
void add_product(const Eigen::Matrix<float, Eigen::Dynamic, few, Eigen::RowMajor>& x,
                 const matrix_map& weight, Eigen::Index output, activations& y) {
  for (Eigen::Index first = 0; first < x.rows(); first += step) {
    of_tokens sum[Outputs];
    for (of_tokens& of_output : sum) of_output.setZero();
    for (Eigen::Index k = first; k < std::min(first + step, x.rows()); ++k) {
      const of_tokens input = x.row(k).transpose().array();
      for (Eigen::Index n = 0; n < Outputs; ++n) sum[n] += weight(output + n, k) * input;
    }
    for (Eigen::Index n = 0; n < Outputs; ++n) {
      y.col(output + n).array() += sum[n].head(y.rows());
    }
  }
}

}  // namespace

void linear::operator()(const activations& x, activations& y) const {
  y.resize(x.rows(), weight.rows());
  y.rowwise() = bias;
  if (x.rows() <= few) {
    Eigen::Matrix<float, Eigen::Dynamic, few, Eigen::RowMajor> tokens(x.cols(), few);
    tokens.leftCols(x.rows()) = x.transpose();
    tokens.rightCols(few - x.rows()).setZero();
    Eigen::Index output = 0;
    for (; output + at_once <= weight.rows(); output += at_once) {
      add_product<at_once>(tokens, weight, output, y);
    }
    for (; output < weight.rows(); ++output) add_product<1>(tokens, weight, output, y);
    return;
  }
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
