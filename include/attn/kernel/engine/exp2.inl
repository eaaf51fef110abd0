// 2^t for t <= 0, the exponential of the softmax: one formula for every instruction set.

/// Coefficients of the polynomial nearest to 2^x on [0, 1] by relative error, lowest degree first.
template <class T>
struct exp2_coefficients;
template <>
struct exp2_coefficients<float> {  // 7.5e-8
  static constexpr int degree = 5;
  static constexpr float at[] = {0.99999992506731597f, 0.69315307312944589f, 0.24015361739822801f,
                                 0.05582631714270288f, 0.00898934111512599f, 0.00187757628181320f};
};
template <>
struct exp2_coefficients<double> {  // 3.1e-18
  static constexpr int degree = 11;
  static constexpr double at[] = {
      0.99999999999999999695,    0.6931471805599462346,      0.24022650695905471359,
      0.05550410866571114055,    0.00961812909879262171,     0.0013333558661575757352,
      0.00015403511446490552452, 0.000015253190248831243385, 1.3208193495747121518e-6,
      1.0254457379014550223e-7,  6.5544571626548391491e-9,   6.2724344648028895648e-10};
};

/// 2^t for t <= 0 to 2 units in the last place of t and of the result; 0 where the result would be
/// below the smallest normal number, NaN for NaN.
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
