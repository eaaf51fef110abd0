// Learnable projections y = x W + b: their seeded first values, and their parameters by name.
// Layers are made of these, and are trained, saved and loaded through the names.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <attn/stages.hpp>
#include <cmath>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace attn::inline ATTN_ABI {

/// A parameter of a layer in place: `Values` is a Map of it, so that assigning to it trains or
/// loads the layer. The Map is valid as long as the layer, and cannot be resized. Or, where
/// `Values` is a matrix, numbers for a parameter, such as its gradient.
template <class Values>
struct named_parameter {
  std::string name;  ///< such as query.weight
  Values values;     ///< a view of a matrix
};

/// Numbers to load, by name. A matrix of one row or column may stand or lie.
template <class Scalar>
using tensors =
    std::map<std::string, Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>, std::less<>>;

/// Fills `weight` with numbers drawn evenly from [-bound, bound), bound = √(6 / (rows + columns)),
/// which keeps the variance of what passes forward and of the gradients that pass back (Glorot and
/// Bengio 2010, eq. 16). One draw of 53 bits a number, column after column: the standard fixes the
/// generator's sequence but not its distributions', so these are the same numbers everywhere.
template <class W>
void xavier_uniform(Eigen::PlainObjectBase<W>& weight, std::mt19937_64& generator) {
  const double bound = std::sqrt(6.0 / static_cast<double>(weight.rows() + weight.cols()));
  for (index j = 0; j < weight.cols(); ++j) {
    for (index i = 0; i < weight.rows(); ++i) {
      const double in_0_2 = 0x1p-52 * static_cast<double>(generator() >> 11);
      weight.coeffRef(i, j) = static_cast<typename W::Scalar>(bound * (in_0_2 - 1));
    }
  }
}

namespace detail {

/// y = x W + b for rows x. The weight has a row an input and a column an output; an empty bias is
/// none. Computes in, and returns, the accumulator's type.
template <class Scalar>
struct projection {
  using matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>;

  matrix weight;
  Eigen::Matrix<Scalar, 1, Eigen::Dynamic> bias;

  projection(index inputs, index outputs, bool has_bias, std::mt19937_64& generator)
      : weight(inputs, outputs), bias(has_bias ? outputs : 0) {
    xavier_uniform(weight, generator);
    bias.setZero();
  }

  template <class X>
  auto operator()(const Eigen::DenseBase<X>& x) const {
    rows_by_cols<accumulator_t<Scalar>, X, matrix> y(x.rows(), weight.cols());
    y.noalias() = computable(x.derived()) * computable(weight);
    if (bias.size() > 0) y.rowwise() += computable(bias);
    return y;
  }

  /// Appends the parameters in place: `name`.weight and, if there is one, `name`.bias.
  template <class Values, class Self>
  static void add_parameters(std::vector<named_parameter<Values>>& to, const std::string& name,
                             Self& self) {
    auto& [weight, bias] = self;
    to.push_back({name + ".weight", {weight.data(), weight.rows(), weight.cols()}});
    if (bias.size() > 0) to.push_back({name + ".bias", {bias.data(), 1, bias.size()}});
  }

  /// Appends their gradients, dW = xᵀ dy and db = Σ_i dy_i, for a gradient dy of y. A row of x that
  /// nothing comes back for is not looked at: hidden tokens may be NaN.
  template <class X, class D>
  void add_gradients(std::vector<named_parameter<matrix>>& to, const std::string& name, const X& x,
                     const D& y_gradient) const {
    matrix of_weight(weight.rows(), weight.cols());
    if (x.allFinite()) {
      of_weight.noalias() = x.transpose() * y_gradient;
    } else {
      X seen = x;
      for (index i = 0; i < x.rows(); ++i) {
        if ((y_gradient.row(i).array() == Scalar(0)).all()) seen.row(i).setZero();
      }
      of_weight.noalias() = seen.transpose() * y_gradient;
    }
    to.push_back({name + ".weight", std::move(of_weight)});
    if (bias.size() == 0) return;
    matrix of_bias = matrix::Zero(1, y_gradient.cols());
    if (y_gradient.rows() > 0) of_bias = y_gradient.colwise().sum();
    to.push_back({name + ".bias", std::move(of_bias)});
  }

  /// dx = dy Wᵀ, as an expression.
  template <class D>
  auto input_gradient(const Eigen::MatrixBase<D>& y_gradient) const {
    return y_gradient.derived() * weight.transpose();
  }
};

template <class Scalar, class... Inputs>
constexpr void require_scalar() {
  static_assert((std::is_same_v<typename Inputs::Scalar, Scalar> && ...),
                "attn: a layer's inputs should have the layer's scalar type: cast them.");
}

inline void require_at_least_1(std::string_view name, index n) {
  require(n >= 1, name, " is ", n, ", it should be at least 1");
}

/// `m` with its elements rounded to Scalar; `m` itself where they are of that type already.
template <class Scalar, class M>
auto rounded(M&& m) {
  using T = std::remove_cvref_t<M>;
  if constexpr (std::is_same_v<typename T::Scalar, Scalar>) {
    return T(std::forward<M>(m));
  } else {
    return like<Scalar, T>(m.template cast<Scalar>());
  }
}

/// The parameter called `name`. Throws std::invalid_argument, listing all names, if there is none.
template <class Values>
Values find_parameter(const std::vector<named_parameter<Values>>& all, std::string_view name) {
  std::string names;
  for (const auto& parameter : all) {
    if (parameter.name == name) return parameter.values;
    names += (names.empty() ? "" : ", ") + parameter.name;
  }
  refuse("parameter is called \"" + std::string(name) + "\", the layer has " + names);
}

struct tensor_shape {
  std::string name;  ///< such as query.weight
  index rows = 0;
  index cols = 0;
};

/// Throws std::invalid_argument unless `given` holds exactly what is `expected`.
template <class Scalar>
void check_tensors(const tensors<Scalar>& given, const std::vector<tensor_shape>& expected) {
  std::string names;
  for (const auto& shape : expected) names += (names.empty() ? "" : ", ") + shape.name;
  for (const auto& shape : expected) {
    const auto found = given.find(shape.name);
    require(found != given.end(), shape.name, " is missing, the layer loads ", names);
    const auto& values = found->second;
    const bool is_vector = shape.rows == 1 || shape.cols == 1;
    const bool fits = values.rows() == shape.rows && values.cols() == shape.cols;
    const bool turned = values.rows() == shape.cols && values.cols() == shape.rows;
    require(fits || (is_vector && turned), shape.name, " is ", values.rows(), " x ", values.cols(),
            ", it should be ", shape.rows, " x ", shape.cols);
  }
  for (const auto& [name, values] : given) {
    const bool known = std::ranges::find(expected, name, &tensor_shape::name) != expected.end();
    require(known, name, " is unknown, the layer loads ", names);
  }
}

/// Sets all parameters to what `from` holds, each under `rename(its name)`.
template <class Values, class Scalar, class Rename>
void load(std::vector<named_parameter<Values>> all, const tensors<Scalar>& from,
          const Rename& rename) {
  std::vector<tensor_shape> expected;
  expected.reserve(all.size());
  for (const auto& [name, values] : all) {
    expected.push_back({rename(name), values.rows(), values.cols()});
  }
  check_tensors(from, expected);
  for (auto& [name, values] : all) {
    values = from.at(rename(name)).reshaped(values.rows(), values.cols());
  }
}

}  // namespace detail
}  // namespace attn::inline ATTN_ABI
