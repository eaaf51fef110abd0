// The layers of a transformer that are not attention. Activations are row-major, a row a token.
#pragma once

#include <Eigen/Core>

namespace minilm {

using activations = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using matrix_map = Eigen::Map<const activations>;
using row_map = Eigen::Map<const Eigen::RowVectorXf>;

// y = x Wᵀ + b; the weight is stored output by input.
struct linear {
  matrix_map weight;
  row_map bias;

  activations operator()(const activations& x) const;
};

// y = (x - mean) / sqrt(variance + eps) · weight + bias, row by row; the variance divides by the
// width.
struct layer_norm {
  static constexpr float eps = 1e-12f;
  row_map weight, bias;

  activations operator()(const activations& x) const;
};

// x Φ(x) = x/2 (1 + erf(x/√2)): the exact form, not the one with tanh.
activations gelu(const activations& x);

}  // namespace minilm
