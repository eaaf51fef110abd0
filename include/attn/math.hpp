// Elementary functions without branches, for use in score changes: compilers turn loops of them
// into vectors, where std::exp and std::tanh are calls, one score at a time. For float and double.
#pragma once

#include <attn/config.hpp>
#include <bit>
#include <cstdint>
#include <limits>

namespace attn::inline ATTN_ABI::math {

namespace detail {

/// Of IEEE 754 numbers: how a whole number becomes an exponent, and the polynomials that fit them.
template <class T>
struct format;
template <>
struct format<float> {
  using bits = std::uint32_t;
  static constexpr int shift = 23;
  static constexpr bits bias = 127;
  static constexpr float round = 12582912.0F;  // 1.5 · 2^23: adding it rounds to a whole number
  static constexpr float exp_least = -104;     // e^x is 0 below, infinite above
  static constexpr float exp_most = 89;
  static constexpr float exp2_least = -151;
  static constexpr float exp2_most = 129;
  static constexpr float tanh_most = 10;  // where tanh is 1
  static constexpr float ln2_high = 0.693145752F;
  static constexpr float ln2_low = 1.42860677e-6F;
  // (e^x - 1 - x) / x² on ±ln 2 / 2, to 1.3e-8 of e^x - 1
  static constexpr float expm1[] = {0.499999981F, 0.166665432F, 0.0416672018F, 0.00836658033F,
                                    0.00138825110F};
  // (ln((1+s)/(1-s)) - 2s) / s³ in s² on ±(√2-1)/(√2+1), to 4.8e-12
  static constexpr float log[] = {0.666666656F, 0.400003362F, 0.285372382F, 0.235835696F};
};
template <>
struct format<double> {
  using bits = std::uint64_t;
  static constexpr int shift = 52;
  static constexpr bits bias = 1023;
  static constexpr double round = 6755399441055744.0;  // 1.5 · 2^52
  static constexpr double exp_least = -746;
  static constexpr double exp_most = 710;
  static constexpr double exp2_least = -1076;
  static constexpr double exp2_most = 1025;
  static constexpr double tanh_most = 20;
  static constexpr double ln2_high = 0.69314718036912382;
  static constexpr double ln2_low = 1.9082149292705877e-10;
  static constexpr double expm1[] = {
      0.50000000000000000086,     0.16666666666666676596,   0.041666666666666507332,
      0.0083333333333216076373,   0.0013888888888962913247, 0.00019841269886207404014,
      0.000024801587171818366419, 2.7557244104714177523e-6, 2.7557402960781049667e-7,
      2.5109081223634543351e-8,   2.0875322429283150506e-9};
  static constexpr double log[] = {0.66666666666666660933, 0.40000000000006287102,
                                   0.28571428569072959398, 0.2222222264875136356,
                                   0.18181775508443289169, 0.1538709765477221661,
                                   0.13249961933177864202, 0.13252755703587416524};
};

template <class T, std::size_t N>
ATTN_INLINE constexpr T polynomial(const T (&coefficients)[N], T x) {
  T y = coefficients[N - 1];
  ATTN_UNROLL
  for (std::size_t i = N - 1; i > 0; --i) y = y * x + coefficients[i - 1];
  return y;
}

/// condition ? a : b, which no compiler turns into a branch.
template <class T>
ATTN_INLINE constexpr T select(bool condition, T a, T b) {
  using bits = typename format<T>::bits;
  const bits mask = bits{0} - static_cast<bits>(condition);
  return std::bit_cast<T>((std::bit_cast<bits>(a) & mask) | (std::bit_cast<bits>(b) & ~mask));
}

/// x between least and most; NaN stays.
template <class T>
ATTN_INLINE constexpr T clamp(T x, T least, T most) {
  return select(x < least, least, select(x > most, most, x));
}

/// The nearest whole number.
template <class T>
ATTN_INLINE constexpr T nearest(T x) {
  return (x + format<T>::round) - format<T>::round;
}

/// 2^n for whole n of a normal number.
template <class T>
ATTN_INLINE constexpr T power_of_2(T n) {
  using f = format<T>;
  const auto low = std::bit_cast<typename f::bits>(n + f::round);
  return std::bit_cast<T>(static_cast<typename f::bits>((low + f::bias) << f::shift));
}

/// e^r - 1 for |r| <= ln 2 / 2.
template <class T>
ATTN_INLINE constexpr T small_expm1(T r) {
  return r + r * r * polynomial(format<T>::expm1, r);
}

/// (1 + x) · 2^n, in two steps, as n may lie beyond the exponents of normal numbers.
template <class T>
ATTN_INLINE constexpr T scaled(T x, T n) {
  const T half = nearest(n * T(0.5));
  return (power_of_2(half) * (1 + x)) * power_of_2(n - half);
}

}  // namespace detail

/// 2^x, to 2 units in the last place; 0, infinity and NaN as std::exp2 has them.
template <class T>
ATTN_INLINE constexpr T exp2(T x) {
  using f = detail::format<T>;
  const T y = detail::clamp(x, f::exp2_least, f::exp2_most);
  const T n = detail::nearest(y);
  return detail::scaled(detail::small_expm1((y - n) * T(0.69314718055994530942)), n);
}

/// e^x, to 2 units in the last place; 0, infinity and NaN as std::exp has them.
template <class T>
ATTN_INLINE constexpr T exp(T x) {
  using f = detail::format<T>;
  const T y = detail::clamp(x, f::exp_least, f::exp_most);
  const T n = detail::nearest(y * T(1.44269504088896340736));
  return detail::scaled(detail::small_expm1((y - n * f::ln2_high) - n * f::ln2_low), n);
}

/// ln x, to 2 units in the last place; -inf for 0, NaN below, infinity and NaN as std::log has
/// them.
template <class T>
ATTN_INLINE constexpr T log(T x) {
  using f = detail::format<T>;
  using bits = typename f::bits;
  constexpr T infinity = std::numeric_limits<T>::infinity();
  // Numbers below the normal ones are brought up first.
  const bool tiny = x < std::numeric_limits<T>::min();
  const T y = detail::select(tiny, x * detail::power_of_2(T(f::shift)), x);
  // y = m · 2^n with m in [√½, √2): n counts from where the mantissa passes √½.
  constexpr bits root_half = std::bit_cast<bits>(T(0.70710678118654752440));
  const bits above = std::bit_cast<bits>(y) - root_half;
  constexpr bits mantissa = (bits{1} << f::shift) - 1;
  const T m = std::bit_cast<T>(static_cast<bits>((above & mantissa) + root_half));
  // The exponent, as the low bits of a large number, from which the number it counts from is taken.
  constexpr bits sign_extended = bits{1} << (sizeof(T) * 8 - f::shift - 1);
  const bits exponent = ((above >> f::shift) ^ sign_extended);
  constexpr bits round_bits = std::bit_cast<bits>(f::round);
  const T n = std::bit_cast<T>(static_cast<bits>(round_bits + exponent)) -
              (f::round + static_cast<T>(sign_extended)) - (tiny ? T(f::shift) : T(0));
  const T s = (m - 1) / (m + 1);
  const T z = s * s;
  const T low = s * z * detail::polynomial(f::log, z) + n * f::ln2_low;
  const T result = n * f::ln2_high + (2 * s + low);
  const T beyond =
      detail::select(x == T(0), -infinity, detail::select(x == infinity, infinity, x - x / x));
  const bool inside = x > T(0) && x < infinity;
  return detail::select(inside, result,
                        detail::select(x < T(0), std::numeric_limits<T>::quiet_NaN(), beyond));
}

/// tanh x, to 4 units in the last place: e/(e + 2) with e = e^(2x) - 1, which loses nothing near 0.
template <class T>
ATTN_INLINE constexpr T tanh(T x) {
  using f = detail::format<T>;
  const T y = 2 * detail::clamp(x, -f::tanh_most, f::tanh_most);
  const T n = detail::nearest(y * T(1.44269504088896340736));
  const T power = detail::power_of_2(n);
  const T e = power * detail::small_expm1((y - n * f::ln2_high) - n * f::ln2_low) + (power - 1);
  return e / (e + 2);
}

/// 1 / (1 + e^-x), to 4 units in the last place where it is a normal number.
template <class T>
ATTN_INLINE constexpr T sigmoid(T x) {
  return 1 / (1 + exp(-x));
}

}  // namespace attn::inline ATTN_ABI::math
