// 2^t for t <= 0, the exponential of the softmax: one formula for every instruction set.

/// Coefficients of the polynomial nearest to 2^x on [0, 1] by relative error among those that are 1
/// at 0, lowest degree first. That 2^0 is exactly 1 keeps sums as they are while the maximum stays.
template <class T>
struct exp2_coefficients;
template <>
struct exp2_coefficients<float> {  // to 8.2e-8
  static constexpr int degree = 5;
  static constexpr float at[] = {1.0F,          0.693151312F,   0.240164451F,
                                 0.0557999115F, 0.00901703228F, 0.00186712928F};
};
template <>
struct exp2_coefficients<double> {  // to 3.2e-18
  static constexpr int degree = 11;
  static constexpr double at[] = {1.0,
                                  0.69314718055994592834,
                                  0.24022650695906330601,
                                  0.055504108665602189946,
                                  0.0096181290995512944374,
                                  0.001333355862954420799,
                                  0.00015403512310259393422,
                                  0.000015253175044273140551,
                                  1.3208367418424573187e-6,
                                  1.0253211516029039484e-7,
                                  6.5595330046928687571e-9,
                                  6.2634597954007813052e-10};
};

/// 2^t for t <= 0 to 2 units in the last place of t and of the result; NaN for NaN. Within the life
/// of a `flush_small`, for 0 is wanted where the result would be below the smallest normal number.
template <class T>
ATTN_INLINE vec<T> exp2(vec<T> t) {
  using polynomial = exp2_coefficients<T>;
  const vec<T> x = fraction(t);
  vec<T> y = broadcast(polynomial::at[polynomial::degree]);
  ATTN_UNROLL
  for (int i = polynomial::degree - 1; i >= 0; --i) {
    y = multiply_add(y, x, broadcast(polynomial::at[i]));
  }
  return times_power(y, t);
}
