// Numbers that carry a derivative: a score change that takes its score as `auto` gets one of these,
// and its derivative comes out.
#pragma once

#include <attn/math.hpp>
#include <cmath>
#include <compare>
#include <concepts>
#include <type_traits>

namespace attn::inline ATTN_ABI {

template <std::floating_point T>
struct dual;

namespace math {

/// @{
/// The function of a `dual`, with its derivative.
template <class T>
constexpr dual<T> exp(dual<T> x);
template <class T>
constexpr dual<T> exp2(dual<T> x);
template <class T>
constexpr dual<T> log(dual<T> x);
template <class T>
constexpr dual<T> tanh(dual<T> x);
template <class T>
constexpr dual<T> sigmoid(dual<T> x);
/// @}

}  // namespace math

/// value + derivative · ε with ε² = 0. Arithmetic with numbers of other types converts them to T.
template <std::floating_point T>
struct dual {
  T value = 0;       ///< the number itself
  T derivative = 0;  ///< by whatever is differentiated by

  constexpr dual() = default;
  /// A constant.
  template <class U>
    requires std::is_arithmetic_v<U>
  constexpr dual(U constant)  // NOLINT(google-explicit-constructor): constants mix with numbers
      : value(static_cast<T>(constant)) {}
  /// A number with its derivative.
  constexpr dual(T value_, T derivative_) : value(value_), derivative(derivative_) {}

  /// @{
  /// As of numbers, with the derivative that follows.
  friend constexpr dual operator+(dual a) { return a; }
  friend constexpr dual operator-(dual a) { return {-a.value, -a.derivative}; }
  friend constexpr dual operator+(dual a, dual b) {
    return {a.value + b.value, a.derivative + b.derivative};
  }
  friend constexpr dual operator-(dual a, dual b) {
    return {a.value - b.value, a.derivative - b.derivative};
  }
  friend constexpr dual operator*(dual a, dual b) {
    return {a.value * b.value, a.derivative * b.value + a.value * b.derivative};
  }
  friend constexpr dual operator/(dual a, dual b) {
    const T quotient = a.value / b.value;
    return {quotient, (a.derivative - quotient * b.derivative) / b.value};
  }
  constexpr dual& operator+=(dual b) { return *this = *this + b; }
  constexpr dual& operator-=(dual b) { return *this = *this - b; }
  constexpr dual& operator*=(dual b) { return *this = *this * b; }
  constexpr dual& operator/=(dual b) { return *this = *this / b; }
  /// @}

  /// The derivative of a function of a number with this derivative, whose own is `slope`: 0 where
  /// the number does not change, even where the slope is infinite or NaN.
  static constexpr T times(T derivative, T slope) {
    return derivative == 0 ? T(0) : derivative * slope;
  }

  /// @{
  /// By value alone.
  friend constexpr bool operator==(dual a, dual b) { return a.value == b.value; }
  friend constexpr auto operator<=>(dual a, dual b) { return a.value <=> b.value; }
  /// @}

  /// @{
  /// As of numbers, with the derivative that follows; that of abs is 0 at 0. Found without std::
  /// before them.
  friend constexpr dual abs(dual x) { return x.value == 0 ? dual() : x.value < 0 ? -x : x; }
  friend dual sqrt(dual x) {
    const T root = std::sqrt(x.value);
    return {root, times(x.derivative, 1 / (2 * root))};
  }
  friend dual sin(dual x) { return {std::sin(x.value), times(x.derivative, std::cos(x.value))}; }
  friend dual cos(dual x) { return {std::cos(x.value), times(x.derivative, -std::sin(x.value))}; }
  friend dual pow(dual x, T n) {
    return {std::pow(x.value, n), times(n * x.derivative, std::pow(x.value, n - 1))};
  }
  friend constexpr dual exp(dual x) { return math::exp(x); }
  friend constexpr dual exp2(dual x) { return math::exp2(x); }
  friend constexpr dual log(dual x) { return math::log(x); }
  friend constexpr dual tanh(dual x) { return math::tanh(x); }
  /// @}
};

namespace math {

template <class T>
ATTN_INLINE constexpr dual<T> exp(dual<T> x) {
  const T e = exp(x.value);
  return {e, dual<T>::times(x.derivative, e)};
}
template <class T>
ATTN_INLINE constexpr dual<T> exp2(dual<T> x) {
  const T e = exp2(x.value);
  return {e, dual<T>::times(x.derivative, e * T(0.69314718055994530942))};
}
template <class T>
ATTN_INLINE constexpr dual<T> log(dual<T> x) {
  return {log(x.value), dual<T>::times(x.derivative, 1 / x.value)};
}
template <class T>
ATTN_INLINE constexpr dual<T> tanh(dual<T> x) {
  const T t = tanh(x.value);
  return {t, x.derivative * (1 - t * t)};
}
template <class T>
ATTN_INLINE constexpr dual<T> sigmoid(dual<T> x) {
  const T s = sigmoid(x.value);
  return {s, x.derivative * s * (1 - s)};
}

}  // namespace math
}  // namespace attn::inline ATTN_ABI
