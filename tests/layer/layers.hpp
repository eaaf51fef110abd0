// The layers in plain loops, to test them against: projections and joined heads written out, one
// head at a time put to the reference of attention.
#pragma once

#include <attn/multi_head_attention.hpp>
#include <string>
#include <vector>

#include "support/generate.hpp"
#include "support/reference.hpp"
#include "support/refusal.hpp"

namespace attn_test {

// y = x W + b with the layer's parameters `name`.weight and, if it has one, `name`.bias.
template <class Number, class Scalar, class Layer>
matrix<Number> project(const matrix<Number>& x, const Layer& layer, const std::string& name) {
  const auto weight = layer.parameter(name + ".weight");
  matrix<Number> y = matrix<Number>::Zero(x.rows(), weight.cols());
  for (const auto& [each, bias] : layer.parameters()) {
    if (each != name + ".bias") continue;
    for (index i = 0; i < y.rows(); ++i) {
      for (index o = 0; o < y.cols(); ++o) y(i, o) = static_cast<Number>(bias(0, o));
    }
  }
  for (index i = 0; i < y.rows(); ++i) {
    for (index o = 0; o < y.cols(); ++o) {
      for (index c = 0; c < x.cols(); ++c) y(i, o) += x(i, c) * static_cast<Number>(weight(c, o));
    }
  }
  return y;
}

template <class Number>
matrix<Number> columns(const matrix<Number>& x, index first, index count) {
  matrix<Number> block(x.rows(), count);
  for (index i = 0; i < x.rows(); ++i) {
    for (index c = 0; c < count; ++c) block(i, c) = x(i, first + c);
  }
  return block;
}

template <class Number>
struct layer_answer {
  matrix<Number> out;
  std::vector<matrix<Number>> weights;
};

// `call` holds the inputs, and everything else that each head's call is told.
template <class Number, class Scalar>
layer_answer<Number> plain_layer(const attn::multi_head_attention<Scalar>& layer,
                                 const problem<Number>& call) {
  const auto q = project<Number, Scalar>(call.q, layer, "query");
  const auto k = project<Number, Scalar>(call.k, layer, "key");
  const auto v = project<Number, Scalar>(call.v, layer, "value");
  const index d = q.cols() / layer.heads(), dv = v.cols() / layer.heads();
  layer_answer<Number> a;
  matrix<Number> joined(q.rows(), v.cols());
  for (index h = 0; h < layer.heads(); ++h) {
    problem<Number> one = call;
    one.q = columns(q, h * d, d);
    one.k = columns(k, h * d, d);
    one.v = columns(v, h * dv, dv);
    one.head = h;
    const answer<Number> head = evaluate<Number>(one);
    for (index i = 0; i < q.rows(); ++i) {
      for (index c = 0; c < dv; ++c) joined(i, h * dv + c) = head.out(i, c);
    }
    a.weights.push_back(head.weights);
  }
  a.out = project<Number, Scalar>(joined, layer, "output");
  return a;
}

// Where the plain loops in the same type happen to be exact, the longest sum, of n products of
// this size, may still be rounded in another order.
template <class Scalar, class Wide>
double allowed_error(const matrix<Wide>& exact, const matrix<Scalar>& plain, index n) {
  const Wide largest = exact.size() == 0 ? Wide(0) : exact.cwiseAbs().maxCoeff();
  return tolerance::reordered_sum<Scalar>(n, static_cast<double>(largest)) +
         2 * static_cast<double>(largest_error(exact, plain));
}

template <class Scalar, class Found>
double distance(const matrix<Scalar>& expected, const Found& found) {
  if (expected.rows() != found.rows() || expected.cols() != found.cols()) {
    return std::numeric_limits<double>::infinity();
  }
  double largest = 0;
  for (index i = 0; i < expected.rows(); ++i) {
    for (index j = 0; j < expected.cols(); ++j) {
      const double error =
          std::abs(static_cast<double>(expected(i, j)) - static_cast<double>(found.coeff(i, j)));
      if (!(error <= largest)) largest = error;  // NaN stays
    }
  }
  return largest;
}

// Fills every parameter, biases too, with seeded numbers.
template <class Layer>
void fill(Layer& layer, generator& g, double size = 0.5) {
  for (auto& [name, values] : layer.parameters()) {
    for (index j = 0; j < values.cols(); ++j) {
      for (index i = 0; i < values.rows(); ++i) {
        values(i, j) = static_cast<typename Layer::matrix::Scalar>(g.uniform(-size, size));
      }
    }
  }
}

// Whether rows `first` ... of two matrices hold the same bits' worth of numbers.
template <class A, class B>
bool same(const A& a, const B& b) {
  return a.rows() == b.rows() && a.cols() == b.cols() && (a.array() == b.array()).all();
}

}  // namespace attn_test
