// Vectors of AVX-512: 16 floats or 8 doubles. The same names as in the other files here.
// Some operations are written with a mask of all lanes: without it g++ 12 warns of its own header.

template <class T>
struct vec;

template <>
struct vec<float> {
  static constexpr int lanes = 16;
  __m512 v;
};
template <>
struct vec<double> {
  static constexpr int lanes = 8;
  __m512d v;
};

inline constexpr __mmask16 all16 = 0xffff;
inline constexpr __mmask8 all8 = 0xff;

ATTN_INLINE vec<float> load(const float* p) { return {_mm512_loadu_ps(p)}; }
ATTN_INLINE vec<double> load(const double* p) { return {_mm512_loadu_pd(p)}; }
ATTN_INLINE void store(float* p, vec<float> a) { _mm512_storeu_ps(p, a.v); }
ATTN_INLINE void store(double* p, vec<double> a) { _mm512_storeu_pd(p, a.v); }
ATTN_INLINE vec<float> broadcast(float x) { return {_mm512_set1_ps(x)}; }
ATTN_INLINE vec<double> broadcast(double x) { return {_mm512_set1_pd(x)}; }

ATTN_INLINE vec<float> operator+(vec<float> a, vec<float> b) { return {_mm512_add_ps(a.v, b.v)}; }
ATTN_INLINE vec<double> operator+(vec<double> a, vec<double> b) {
  return {_mm512_add_pd(a.v, b.v)};
}
ATTN_INLINE vec<float> operator-(vec<float> a, vec<float> b) { return {_mm512_sub_ps(a.v, b.v)}; }
ATTN_INLINE vec<double> operator-(vec<double> a, vec<double> b) {
  return {_mm512_sub_pd(a.v, b.v)};
}
ATTN_INLINE vec<float> operator*(vec<float> a, vec<float> b) { return {_mm512_mul_ps(a.v, b.v)}; }
ATTN_INLINE vec<double> operator*(vec<double> a, vec<double> b) {
  return {_mm512_mul_pd(a.v, b.v)};
}
ATTN_INLINE vec<float> operator/(vec<float> a, vec<float> b) { return {_mm512_div_ps(a.v, b.v)}; }
ATTN_INLINE vec<double> operator/(vec<double> a, vec<double> b) {
  return {_mm512_div_pd(a.v, b.v)};
}
/// a · b + c, rounded once.
ATTN_INLINE vec<float> multiply_add(vec<float> a, vec<float> b, vec<float> c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
ATTN_INLINE vec<double> multiply_add(vec<double> a, vec<double> b, vec<double> c) {
  return {_mm512_fmadd_pd(a.v, b.v, c.v)};
}
/// The larger one, and b where a is NaN.
ATTN_INLINE vec<float> larger(vec<float> a, vec<float> b) {
  return {_mm512_maskz_max_ps(all16, a.v, b.v)};
}
ATTN_INLINE vec<double> larger(vec<double> a, vec<double> b) {
  return {_mm512_maskz_max_pd(all8, a.v, b.v)};
}

/// Where a == b, x, else y.
ATTN_INLINE vec<float> where_equal(vec<float> a, vec<float> b, vec<float> x, vec<float> y) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ), y.v, x.v)};
}
ATTN_INLINE vec<double> where_equal(vec<double> a, vec<double> b, vec<double> x, vec<double> y) {
  return {_mm512_mask_blend_pd(_mm512_cmp_pd_mask(a.v, b.v, _CMP_EQ_OQ), y.v, x.v)};
}
ATTN_INLINE bool all_equal(vec<float> a, vec<float> b) {
  return _mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ) == 0xffff;
}
ATTN_INLINE bool all_equal(vec<double> a, vec<double> b) {
  return _mm512_cmp_pd_mask(a.v, b.v, _CMP_EQ_OQ) == 0xff;
}

/// t - ⌊t⌋, in [0, 1); 0 for -inf.
ATTN_INLINE vec<float> fraction(vec<float> t) {
  return {_mm512_reduce_ps(t.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
}
ATTN_INLINE vec<double> fraction(vec<double> t) {
  return {_mm512_reduce_pd(t.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
}
/// x · 2^⌊t⌋ for t <= 0 and x in [1, 2]; 0 where that is below the smallest normal number, within
/// the life of a `flush_small`.
ATTN_INLINE vec<float> times_power(vec<float> x, vec<float> t) {
  return {_mm512_maskz_scalef_ps(all16, x.v, t.v)};
}
ATTN_INLINE vec<double> times_power(vec<double> x, vec<double> t) {
  return {_mm512_maskz_scalef_pd(all8, x.v, t.v)};
}
/// Has the processor make 0 of results below the smallest normal number: arithmetic on them takes a
/// hundred times as long, and to select them costs one operation in eleven.
class flush_small {
 public:
  explicit flush_small(bool wanted) : wanted_(wanted) {
    if (!wanted_) return;
    before_ = _mm_getcsr();
    _mm_setcsr(before_ | _MM_FLUSH_ZERO_ON);
  }
  flush_small(const flush_small&) = delete;
  flush_small& operator=(const flush_small&) = delete;
  ~flush_small() {
    if (wanted_) _mm_setcsr(before_);
  }

 private:
  bool wanted_;
  unsigned before_ = 0;
};

/// Rows of A in the products: 24 accumulators, 3 vectors of B and a broadcast fill 32 registers.
inline constexpr int rows_at_once = 8;
/// Steps of the products' loop at once, 1 or 2: two leave more of its time to the products, where
/// the addresses they need have registers.
inline constexpr int steps_at_once = 2;
/// The fewest vectors in a block of queries.
inline constexpr int fewest_vectors = 1;
/// The widest rows of values, in bytes, of which a whole tile is asked for ahead: wider ones would
/// push each other out of the first cache. Measured.
inline constexpr int widest_tile_ahead = 1024;

/// put(c, column c of `from`) for 16 x 16 floats: quarters of rows are put together on their way
/// in, so that two rounds of shuffles are enough.
template <class Put>
ATTN_INLINE void transpose(const float* from, index from_stride, const Put& put) {
  __m512 x[16];
  ATTN_UNROLL
  for (int r = 0; r < 4; ++r, from += from_stride) {
    const float* p1 = from + 4 * from_stride;
    const float* p2 = p1 + 4 * from_stride;
    const float* p3 = p2 + 4 * from_stride;
    ATTN_UNROLL
    for (int c = 0; c < 16; c += 4) {
      __m512 y = _mm512_castps128_ps512(_mm_loadu_ps(from + c));
      y = _mm512_insertf32x4(y, _mm_loadu_ps(p1 + c), 1);
      y = _mm512_insertf32x4(y, _mm_loadu_ps(p2 + c), 2);
      x[c + r] = _mm512_insertf32x4(y, _mm_loadu_ps(p3 + c), 3);
    }
  }
  ATTN_UNROLL
  for (int c = 0; c < 16; c += 4) {
    const __m512d ab = _mm512_castps_pd(_mm512_maskz_unpacklo_ps(all16, x[c], x[c + 1]));
    const __m512d AB = _mm512_castps_pd(_mm512_maskz_unpackhi_ps(all16, x[c], x[c + 1]));
    const __m512d cd = _mm512_castps_pd(_mm512_maskz_unpacklo_ps(all16, x[c + 2], x[c + 3]));
    const __m512d CD = _mm512_castps_pd(_mm512_maskz_unpackhi_ps(all16, x[c + 2], x[c + 3]));
    put(c, vec<float>{_mm512_castpd_ps(_mm512_maskz_unpacklo_pd(all8, ab, cd))});
    put(c + 1, vec<float>{_mm512_castpd_ps(_mm512_maskz_unpackhi_pd(all8, ab, cd))});
    put(c + 2, vec<float>{_mm512_castpd_ps(_mm512_maskz_unpacklo_pd(all8, AB, CD))});
    put(c + 3, vec<float>{_mm512_castpd_ps(_mm512_maskz_unpackhi_pd(all8, AB, CD))});
  }
}

/// The same for 8 x 8 doubles.
template <class Put>
ATTN_INLINE void transpose(const double* from, index from_stride, const Put& put) {
  ATTN_UNROLL
  for (int c = 0; c < 8; c += 2) {
    __m512d x[2];
    ATTN_UNROLL
    for (int r = 0; r < 2; ++r) {
      const double* p = from + r * from_stride + c;
      __m512d y = _mm512_castpd128_pd512(_mm_loadu_pd(p));
      y = _mm512_insertf64x2(y, _mm_loadu_pd(p + 2 * from_stride), 1);
      y = _mm512_insertf64x2(y, _mm_loadu_pd(p + 4 * from_stride), 2);
      x[r] = _mm512_insertf64x2(y, _mm_loadu_pd(p + 6 * from_stride), 3);
    }
    put(c, vec<double>{_mm512_maskz_unpacklo_pd(all8, x[0], x[1])});
    put(c + 1, vec<double>{_mm512_maskz_unpackhi_pd(all8, x[0], x[1])});
  }
}

/// Lane w: the sum of the lanes of x[w]. Each round joins two vectors and halves what is to be
/// summed.
ATTN_INLINE vec<float> sum_each(const vec<float>* x) {
  __m512 quarters[4];
  ATTN_UNROLL
  for (int n = 0; n < 4; ++n, x += 4) {
    const __m512 ab = _mm512_add_ps(_mm512_maskz_unpacklo_ps(all16, x[0].v, x[1].v),
                                    _mm512_maskz_unpackhi_ps(all16, x[0].v, x[1].v));
    const __m512 cd = _mm512_add_ps(_mm512_maskz_unpacklo_ps(all16, x[2].v, x[3].v),
                                    _mm512_maskz_unpackhi_ps(all16, x[2].v, x[3].v));
    const __m512d even = _mm512_maskz_unpacklo_pd(all8, _mm512_castps_pd(ab), _mm512_castps_pd(cd));
    const __m512d odd = _mm512_maskz_unpackhi_pd(all8, _mm512_castps_pd(ab), _mm512_castps_pd(cd));
    quarters[n] = _mm512_add_ps(_mm512_castpd_ps(even), _mm512_castpd_ps(odd));
  }
  __m512 halves[2];
  ATTN_UNROLL
  for (int n = 0; n < 2; ++n) {
    const __m512 a = quarters[2 * n];
    const __m512 b = quarters[2 * n + 1];
    halves[n] = _mm512_add_ps(_mm512_maskz_shuffle_f32x4(all16, a, b, 0x88),
                              _mm512_maskz_shuffle_f32x4(all16, a, b, 0xdd));
  }
  return {_mm512_add_ps(_mm512_maskz_shuffle_f32x4(all16, halves[0], halves[1], 0x88),
                        _mm512_maskz_shuffle_f32x4(all16, halves[0], halves[1], 0xdd))};
}
ATTN_INLINE vec<double> sum_each(const vec<double>* x) {
  __m512d quarters[4];
  ATTN_UNROLL
  for (int n = 0; n < 4; ++n) {
    const __m512d a = x[2 * n].v;
    const __m512d b = x[2 * n + 1].v;
    quarters[n] =
        _mm512_add_pd(_mm512_maskz_unpacklo_pd(all8, a, b), _mm512_maskz_unpackhi_pd(all8, a, b));
  }
  __m512d halves[2];
  ATTN_UNROLL
  for (int n = 0; n < 2; ++n) {
    const __m512d a = quarters[2 * n];
    const __m512d b = quarters[2 * n + 1];
    halves[n] = _mm512_add_pd(_mm512_maskz_shuffle_f64x2(all8, a, b, 0x88),
                              _mm512_maskz_shuffle_f64x2(all8, a, b, 0xdd));
  }
  return {_mm512_add_pd(_mm512_maskz_shuffle_f64x2(all8, halves[0], halves[1], 0x88),
                        _mm512_maskz_shuffle_f64x2(all8, halves[0], halves[1], 0xdd))};
}

/// 16 words of 32 bits.
struct words {
  static constexpr int lanes = 16;
  __m512i v;
};
ATTN_INLINE words load(const std::uint32_t* p) { return {_mm512_loadu_si512(p)}; }
ATTN_INLINE void store(std::uint32_t* p, words a) { _mm512_storeu_si512(p, a.v); }
ATTN_INLINE words broadcast(std::uint32_t x) { return {_mm512_set1_epi32(static_cast<int>(x))}; }
ATTN_INLINE words exclusive_or(words a, words b, words c) {
  return {_mm512_ternarylogic_epi32(a.v, b.v, c.v, 0x96)};
}
/// The upper and the lower half of each product: those of even and of odd lanes are formed apart.
ATTN_INLINE void multiply(words a, words b, words& high, words& low) {
  constexpr auto swap = static_cast<_MM_PERM_ENUM>(0b10110001);
  const __m512i odd_lanes = _mm512_maskz_shuffle_epi32(all16, a.v, swap);
  const __m512i even = _mm512_maskz_mul_epu32(all8, a.v, b.v);
  const __m512i odd = _mm512_maskz_mul_epu32(all8, odd_lanes, b.v);
  high.v = _mm512_mask_shuffle_epi32(odd, 0x5555, even, swap);
  low.v = _mm512_mask_shuffle_epi32(even, 0xaaaa, odd, swap);
}
