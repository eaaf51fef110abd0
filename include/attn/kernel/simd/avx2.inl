// Vectors of AVX2 with FMA: 8 floats or 4 doubles. The same names as in the other files here.

template <class T>
struct vec;

template <>
struct vec<float> {
  static constexpr int lanes = 8;
  __m256 v;
};
template <>
struct vec<double> {
  static constexpr int lanes = 4;
  __m256d v;
};

ATTN_INLINE vec<float> load(const float* p) { return {_mm256_loadu_ps(p)}; }
ATTN_INLINE vec<double> load(const double* p) { return {_mm256_loadu_pd(p)}; }
ATTN_INLINE void store(float* p, vec<float> a) { _mm256_storeu_ps(p, a.v); }
ATTN_INLINE void store(double* p, vec<double> a) { _mm256_storeu_pd(p, a.v); }
ATTN_INLINE vec<float> broadcast(float x) { return {_mm256_set1_ps(x)}; }
ATTN_INLINE vec<double> broadcast(double x) { return {_mm256_set1_pd(x)}; }

ATTN_INLINE vec<float> operator+(vec<float> a, vec<float> b) { return {_mm256_add_ps(a.v, b.v)}; }
ATTN_INLINE vec<double> operator+(vec<double> a, vec<double> b) {
  return {_mm256_add_pd(a.v, b.v)};
}
ATTN_INLINE vec<float> operator-(vec<float> a, vec<float> b) { return {_mm256_sub_ps(a.v, b.v)}; }
ATTN_INLINE vec<double> operator-(vec<double> a, vec<double> b) {
  return {_mm256_sub_pd(a.v, b.v)};
}
ATTN_INLINE vec<float> operator*(vec<float> a, vec<float> b) { return {_mm256_mul_ps(a.v, b.v)}; }
ATTN_INLINE vec<double> operator*(vec<double> a, vec<double> b) {
  return {_mm256_mul_pd(a.v, b.v)};
}
ATTN_INLINE vec<float> operator/(vec<float> a, vec<float> b) { return {_mm256_div_ps(a.v, b.v)}; }
ATTN_INLINE vec<double> operator/(vec<double> a, vec<double> b) {
  return {_mm256_div_pd(a.v, b.v)};
}
/// a · b + c, rounded once.
ATTN_INLINE vec<float> multiply_add(vec<float> a, vec<float> b, vec<float> c) {
  return {_mm256_fmadd_ps(a.v, b.v, c.v)};
}
ATTN_INLINE vec<double> multiply_add(vec<double> a, vec<double> b, vec<double> c) {
  return {_mm256_fmadd_pd(a.v, b.v, c.v)};
}
/// The larger one, and b where one is NaN.
ATTN_INLINE vec<float> larger(vec<float> a, vec<float> b) { return {_mm256_max_ps(a.v, b.v)}; }
ATTN_INLINE vec<double> larger(vec<double> a, vec<double> b) { return {_mm256_max_pd(a.v, b.v)}; }

/// Where a == b, x, else y.
ATTN_INLINE vec<float> where_equal(vec<float> a, vec<float> b, vec<float> x, vec<float> y) {
  return {_mm256_blendv_ps(y.v, x.v, _mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ))};
}
ATTN_INLINE vec<double> where_equal(vec<double> a, vec<double> b, vec<double> x, vec<double> y) {
  return {_mm256_blendv_pd(y.v, x.v, _mm256_cmp_pd(a.v, b.v, _CMP_EQ_OQ))};
}
ATTN_INLINE bool all_equal(vec<float> a, vec<float> b) {
  return _mm256_movemask_ps(_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)) == 0xff;
}
ATTN_INLINE bool all_equal(vec<double> a, vec<double> b) {
  return _mm256_movemask_pd(_mm256_cmp_pd(a.v, b.v, _CMP_EQ_OQ)) == 0xf;
}

/// t - ⌊t⌋, in [0, 1), and 0 where 2^t underflows. NaN stays: it is the second operand of the
/// maximum.
ATTN_INLINE vec<float> fraction(vec<float> t) {
  const __m256 x = _mm256_max_ps(_mm256_set1_ps(-127), t.v);
  return {_mm256_sub_ps(x, _mm256_floor_ps(x))};
}
ATTN_INLINE vec<double> fraction(vec<double> t) {
  const __m256d x = _mm256_max_pd(_mm256_set1_pd(-1023), t.v);
  return {_mm256_sub_pd(x, _mm256_floor_pd(x))};
}
/// x · 2^⌊t⌋ for t <= 0 and x in [1, 2]; 0 where that underflows. The power is put together in the
/// low bits of ⌊t⌋ + 1.5 · 2^23 + 127, and moved up to the exponent; the exponent 0 makes it 0.
ATTN_INLINE vec<float> times_power(vec<float> x, vec<float> t) {
  const __m256 n = _mm256_floor_ps(_mm256_max_ps(_mm256_set1_ps(-127), t.v));
  const __m256 biased = _mm256_add_ps(n, _mm256_set1_ps(12582912.0F + 127));
  const __m256 power = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(biased), 23));
  return {_mm256_mul_ps(x.v, power)};
}
ATTN_INLINE vec<double> times_power(vec<double> x, vec<double> t) {
  const __m256d n = _mm256_floor_pd(_mm256_max_pd(_mm256_set1_pd(-1023), t.v));
  const __m256d biased = _mm256_add_pd(n, _mm256_set1_pd(6755399441055744.0 + 1023));
  const __m256d power = _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_castpd_si256(biased), 52));
  return {_mm256_mul_pd(x.v, power)};
}

/// Nothing need be done for `times_power` to give 0.
struct flush_small {
  explicit flush_small(bool) {}
};

/// Rows of A in the products: 12 accumulators, 3 vectors of B and a broadcast fill 16 registers.
inline constexpr int rows_at_once = 4;
/// Steps of the products' loop at once: two would need more registers than there are.
inline constexpr int steps_at_once = 1;
/// The fewest vectors in a block of queries.
inline constexpr int fewest_vectors = 1;
/// The widest rows of values, in bytes, of which a whole tile is asked for ahead: wider ones would
/// push each other out of the first cache. Measured.
inline constexpr int widest_tile_ahead = 256;

/// put(c, column c of `from`) for 8 x 8 floats: halves of rows are put together on their way in, so
/// that two rounds of shuffles are enough.
template <class Put>
ATTN_INLINE void transpose(const float* from, index from_stride, const Put& put) {
  ATTN_UNROLL
  for (int c = 0; c < 8; c += 4) {
    __m256 x[4];
    ATTN_UNROLL
    for (int r = 0; r < 4; ++r) {
      const float* p = from + r * from_stride + c;
      x[r] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)),
                                  _mm_loadu_ps(p + 4 * from_stride), 1);
    }
    const __m256d ab = _mm256_castps_pd(_mm256_unpacklo_ps(x[0], x[1]));
    const __m256d AB = _mm256_castps_pd(_mm256_unpackhi_ps(x[0], x[1]));
    const __m256d cd = _mm256_castps_pd(_mm256_unpacklo_ps(x[2], x[3]));
    const __m256d CD = _mm256_castps_pd(_mm256_unpackhi_ps(x[2], x[3]));
    put(c, vec<float>{_mm256_castpd_ps(_mm256_unpacklo_pd(ab, cd))});
    put(c + 1, vec<float>{_mm256_castpd_ps(_mm256_unpackhi_pd(ab, cd))});
    put(c + 2, vec<float>{_mm256_castpd_ps(_mm256_unpacklo_pd(AB, CD))});
    put(c + 3, vec<float>{_mm256_castpd_ps(_mm256_unpackhi_pd(AB, CD))});
  }
}

/// The same for 4 x 4 doubles.
template <class Put>
ATTN_INLINE void transpose(const double* from, index from_stride, const Put& put) {
  ATTN_UNROLL
  for (int c = 0; c < 4; c += 2) {
    __m256d x[2];
    ATTN_UNROLL
    for (int r = 0; r < 2; ++r) {
      const double* p = from + r * from_stride + c;
      x[r] = _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(p)),
                                  _mm_loadu_pd(p + 2 * from_stride), 1);
    }
    put(c, vec<double>{_mm256_unpacklo_pd(x[0], x[1])});
    put(c + 1, vec<double>{_mm256_unpackhi_pd(x[0], x[1])});
  }
}

/// 8 words of 32 bits.
struct words {
  static constexpr int lanes = 8;
  __m256i v;
};
ATTN_INLINE words load(const std::uint32_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
}
ATTN_INLINE void store(std::uint32_t* p, words a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.v);
}
ATTN_INLINE words broadcast(std::uint32_t x) { return {_mm256_set1_epi32(static_cast<int>(x))}; }
ATTN_INLINE words exclusive_or(words a, words b, words c) {
  return {_mm256_xor_si256(_mm256_xor_si256(a.v, b.v), c.v)};
}
/// The upper and the lower half of each product: those of even and of odd lanes are formed apart.
ATTN_INLINE void multiply(words a, words b, words& high, words& low) {
  const __m256i even = _mm256_mul_epu32(a.v, b.v);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(a.v, 32), b.v);
  high.v = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0b10101010);
  low.v = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0b10101010);
}
