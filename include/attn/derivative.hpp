// Derivatives of score changes, for gradients: those that the library's own bring, those of generic
// lambdas by dual numbers, and those that a user gives beside a function.
#pragma once

#include <attn/dual.hpp>
#include <attn/score_mod.hpp>

namespace attn::inline ATTN_ABI {

/// A score change and its derivative by the score, `(S, position) -> S` or `(S) -> S` each. A
/// lambda that takes its score as `auto` needs none: it is called with a `dual`.
template <class F, class D>
struct differentiable {
  F function;       ///< the score change itself
  D derivative_of;  ///< by the score, where it is given

  void check(const call_shape& shape) const {
    detail::check(function, shape);
    detail::check(derivative_of, shape);
  }
  template <class S>
  S operator()(S s, position at) const {
    return detail::change(function, s, at);
  }
  template <class S>
  S derivative(S s, position at) const {
    return detail::change(derivative_of, s, at);
  }
};
template <class F, class D, class S>
inline constexpr bool positional_score_mod<differentiable<F, D>, S> =
    positional_score_mod<F, S> || positional_score_mod<D, S>;

/// Makes a `differentiable`:
///
///     with_derivative([](float s) { return s * s; }, [](float s) { return 2 * s; })
template <class F, class D>
auto with_derivative(F function, D derivative) {
  return differentiable<F, D>{std::move(function), std::move(derivative)};
}

namespace detail {

template <class F, class D, class Use>
void each_table(const differentiable<F, D>& change, const Use& use) {
  each_table(change.function, use);
  each_table(change.derivative_of, use);
}

template <class F>
inline constexpr bool is_composition = false;
template <class A, class B>
inline constexpr bool is_composition<composition<A, B>> = true;

/// The changes of this library's that have numbers to be learned.
template <class F>
concept Learned = std::is_same_v<F, alibi> || requires(const F& f) {
  f.table();
  f.parameters();
};

template <class F, class S>
concept TakesDual =
    std::is_invocable_v<const F&, dual<S>, position> || std::is_invocable_v<const F&, dual<S>>;

/// d change(s, at) / ds
template <class F, class S>
S derivative(const F& score_mod, S s, position at) {
  if constexpr (is_composition<F>) {
    return dual<S>::times(derivative(score_mod.first, s, at),
                          derivative(score_mod.second, change(score_mod.first, s, at), at));
  } else if constexpr (requires { score_mod.derivative(s, at); }) {
    return score_mod.derivative(s, at);
  } else if constexpr (requires { score_mod.derivative(s); }) {
    return score_mod.derivative(s);
  } else if constexpr (TakesDual<F, S>) {
    const dual<S> x(s, S(1));
    if constexpr (std::is_invocable_v<const F&, dual<S>, position>) {
      return dual<S>(score_mod(x, at)).derivative;
    } else {
      return dual<S>(score_mod(x)).derivative;
    }
  } else {
    static_assert(TakesDual<F, S>,
                  "attn: this score change has no derivative: let it take its score as auto, so "
                  "that it can be called with an attn::dual (attn/dual.hpp lists the functions of "
                  "one: attn::math::tanh(s), say, or without std::, `using std::sqrt; sqrt(s)`), "
                  "or give its derivative as well: "
                  "attn::with_derivative(function, derivative).");
    return s;
  }
}

/// Numbers that a score change has for each head and that can be learned.
template <class F>
index parameters_of(const F& score_mod) {
  if constexpr (is_composition<F>) {
    return parameters_of(score_mod.first) + parameters_of(score_mod.second);
  } else if constexpr (Learned<F>) {
    return score_mod.parameters();
  } else {
    return 0;
  }
}

/// to += gradient · d change / d parameter, for each parameter of a head: those of a composition
/// one after the other.
template <class F, class S>
void add_parameter_gradient(const F& score_mod, S s, position at, S gradient, double* to) {
  if constexpr (is_composition<F>) {
    const S between = change(score_mod.first, s, at);
    add_parameter_gradient(score_mod.first, s, at,
                           gradient * derivative(score_mod.second, between, at), to);
    add_parameter_gradient(score_mod.second, between, at, gradient,
                           to + parameters_of(score_mod.first));
  } else if constexpr (Learned<F>) {
    score_mod.add_parameter_gradient(s, at, gradient, to);
  }
}

/// Calls use(part, first parameter) for each part of a score change that has parameters.
template <class F, class Use>
void each_with_parameters(const F& score_mod, const Use& use, index first = 0) {
  if constexpr (is_composition<F>) {
    each_with_parameters(score_mod.first, use, first);
    each_with_parameters(score_mod.second, use, first + parameters_of(score_mod.first));
  } else if constexpr (Learned<F>) {
    use(score_mod, first);
  }
}

}  // namespace detail
}  // namespace attn::inline ATTN_ABI
