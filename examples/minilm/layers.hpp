// The layers of a transformer that are not attention. Activations are row-major, a row a token.
// Results go to the caller's memory: what is as large as last time asks the system for none.
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

  void operator()(const activations& x, activations& y) const;
};

// x = (x - mean) / sqrt(variance + eps) · weight + bias, row by row; the variance divides by the
// width.
struct layer_norm {
  static constexpr float eps = 1e-12f;
  row_map weight, bias;

  void operator()(activations& x) const;
};

// x = x Φ(x) = x/2 (1 + erf(x/√2)): the exact form, not the one with tanh.
void gelu(activations& x);

}  // namespace minilm
