// Vectors of NEON on 64-bit Arm: 4 floats or 2 doubles. The same names as in the other files here.

template <class T>
struct vec;

template <>
struct vec<float> {
  static constexpr int lanes = 4;
  float32x4_t v;
};
template <>
struct vec<double> {
  static constexpr int lanes = 2;
  float64x2_t v;
};

ATTN_INLINE vec<float> load(const float* p) { return {vld1q_f32(p)}; }
ATTN_INLINE vec<double> load(const double* p) { return {vld1q_f64(p)}; }
ATTN_INLINE void store(float* p, vec<float> a) { vst1q_f32(p, a.v); }
ATTN_INLINE void store(double* p, vec<double> a) { vst1q_f64(p, a.v); }
ATTN_INLINE vec<float> broadcast(float x) { return {vdupq_n_f32(x)}; }
ATTN_INLINE vec<double> broadcast(double x) { return {vdupq_n_f64(x)}; }

ATTN_INLINE vec<float> operator+(vec<float> a, vec<float> b) { return {vaddq_f32(a.v, b.v)}; }
ATTN_INLINE vec<double> operator+(vec<double> a, vec<double> b) { return {vaddq_f64(a.v, b.v)}; }
ATTN_INLINE vec<float> operator-(vec<float> a, vec<float> b) { return {vsubq_f32(a.v, b.v)}; }
ATTN_INLINE vec<double> operator-(vec<double> a, vec<double> b) { return {vsubq_f64(a.v, b.v)}; }
ATTN_INLINE vec<float> operator*(vec<float> a, vec<float> b) { return {vmulq_f32(a.v, b.v)}; }
ATTN_INLINE vec<double> operator*(vec<double> a, vec<double> b) { return {vmulq_f64(a.v, b.v)}; }
ATTN_INLINE vec<float> operator/(vec<float> a, vec<float> b) { return {vdivq_f32(a.v, b.v)}; }
ATTN_INLINE vec<double> operator/(vec<double> a, vec<double> b) { return {vdivq_f64(a.v, b.v)}; }
/// a · b + c, rounded once.
ATTN_INLINE vec<float> multiply_add(vec<float> a, vec<float> b, vec<float> c) {
  return {vfmaq_f32(c.v, a.v, b.v)};
}
ATTN_INLINE vec<double> multiply_add(vec<double> a, vec<double> b, vec<double> c) {
  return {vfmaq_f64(c.v, a.v, b.v)};
}

/// Where a == b, x, else y.
ATTN_INLINE vec<float> where_equal(vec<float> a, vec<float> b, vec<float> x, vec<float> y) {
  return {vbslq_f32(vceqq_f32(a.v, b.v), x.v, y.v)};
}
ATTN_INLINE vec<double> where_equal(vec<double> a, vec<double> b, vec<double> x, vec<double> y) {
  return {vbslq_f64(vceqq_f64(a.v, b.v), x.v, y.v)};
}
/// The larger one, and b where one is NaN.
ATTN_INLINE vec<float> larger(vec<float> a, vec<float> b) {
  return {vbslq_f32(vcgtq_f32(a.v, b.v), a.v, b.v)};
}
ATTN_INLINE vec<double> larger(vec<double> a, vec<double> b) {
  return {vbslq_f64(vcgtq_f64(a.v, b.v), a.v, b.v)};
}
ATTN_INLINE bool all_equal(vec<float> a, vec<float> b) {
  return vminvq_u32(vceqq_f32(a.v, b.v)) != 0;
}
ATTN_INLINE bool all_equal(vec<double> a, vec<double> b) {
  return vminvq_u32(vreinterpretq_u32_u64(vceqq_f64(a.v, b.v))) != 0;
}

/// t - ⌊t⌋, in [0, 1), and 0 where 2^t underflows. NaN stays.
ATTN_INLINE vec<float> fraction(vec<float> t) {
  const float32x4_t x = vmaxq_f32(vdupq_n_f32(-127), t.v);
  return {vsubq_f32(x, vrndmq_f32(x))};
}
ATTN_INLINE vec<double> fraction(vec<double> t) {
  const float64x2_t x = vmaxq_f64(vdupq_n_f64(-1023), t.v);
  return {vsubq_f64(x, vrndmq_f64(x))};
}
/// x · 2^⌊t⌋ for t <= 0 and x in [1, 2]; 0 where that underflows, for the exponent 0 makes 0.
ATTN_INLINE vec<float> times_power(vec<float> x, vec<float> t) {
  const int32x4_t n = vcvtmq_s32_f32(vmaxq_f32(vdupq_n_f32(-127), t.v));
  const int32x4_t power = vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23);
  return {vmulq_f32(x.v, vreinterpretq_f32_s32(power))};
}
ATTN_INLINE vec<double> times_power(vec<double> x, vec<double> t) {
  const int64x2_t n = vcvtmq_s64_f64(vmaxq_f64(vdupq_n_f64(-1023), t.v));
  const int64x2_t power = vshlq_n_s64(vaddq_s64(n, vdupq_n_s64(1023)), 52);
  return {vmulq_f64(x.v, vreinterpretq_f64_s64(power))};
}

/// Nothing need be done for `times_power` to give 0.
struct flush_small {
  explicit flush_small(bool) {}
};

/// Rows of A in the products: 24 accumulators, 3 vectors of B and a broadcast fill 32 registers.
inline constexpr int rows_at_once = 8;
/// Steps of the products' loop at once, 1 or 2.
inline constexpr int steps_at_once = 1;
/// The fewest vectors in a block of queries.
inline constexpr int fewest_vectors = 1;
/// The widest rows of values, in bytes, of which a whole tile is asked for ahead: wider ones would
/// push each other out of the first cache. As of AVX2, not measured.
inline constexpr int widest_tile_ahead = 256;

/// put(c, column c of `from`) for 4 x 4 floats.
template <class Put>
ATTN_INLINE void transpose(const float* from, index from_stride, const Put& put) {
  const float32x4x2_t ab = vtrnq_f32(vld1q_f32(from), vld1q_f32(from + from_stride));
  const float32x4x2_t cd =
      vtrnq_f32(vld1q_f32(from + 2 * from_stride), vld1q_f32(from + 3 * from_stride));
  ATTN_UNROLL
  for (int i = 0; i < 2; ++i) {
    put(i, vec<float>{vcombine_f32(vget_low_f32(ab.val[i]), vget_low_f32(cd.val[i]))});
    put(i + 2, vec<float>{vcombine_f32(vget_high_f32(ab.val[i]), vget_high_f32(cd.val[i]))});
  }
}
/// The same for 2 x 2 doubles.
template <class Put>
ATTN_INLINE void transpose(const double* from, index from_stride, const Put& put) {
  const float64x2_t a = vld1q_f64(from);
  const float64x2_t b = vld1q_f64(from + from_stride);
  put(0, vec<double>{vtrn1q_f64(a, b)});
  put(1, vec<double>{vtrn2q_f64(a, b)});
}

/// 4 words of 32 bits.
struct words {
  static constexpr int lanes = 4;
  std::uint32_t v[lanes];
};
ATTN_INLINE words load(const std::uint32_t* p) {
  words a;
  std::memcpy(a.v, p, sizeof a.v);
  return a;
}
ATTN_INLINE void store(std::uint32_t* p, words a) { std::memcpy(p, a.v, sizeof a.v); }
ATTN_INLINE words broadcast(std::uint32_t x) { return {{x, x, x, x}}; }
ATTN_INLINE words exclusive_or(words a, words b, words c) {
  for (int i = 0; i < words::lanes; ++i) a.v[i] ^= b.v[i] ^ c.v[i];
  return a;
}
/// The upper and the lower half of each product.
ATTN_INLINE void multiply(words a, words b, words& high, words& low) {
  for (int i = 0; i < words::lanes; ++i) {
    const std::uint64_t product = std::uint64_t{a.v[i]} * b.v[i];
    high.v[i] = static_cast<std::uint32_t>(product >> 32);
    low.v[i] = static_cast<std::uint32_t>(product);
  }
}
