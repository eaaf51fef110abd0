// Vectors in plain C++, 16 bytes each, for machines without a file of their own here: loops of
// fixed width, which compilers turn into what the machine has. The same names as in the other files
// here.

template <class T>
struct vec {
  static constexpr int lanes = 16 / sizeof(T);
  T v[lanes];
};

template <class T>
ATTN_INLINE vec<T> load(const T* p) {
  vec<T> a;
  for (int i = 0; i < vec<T>::lanes; ++i) a.v[i] = p[i];
  return a;
}
template <class T>
ATTN_INLINE void store(T* p, vec<T> a) {
  for (int i = 0; i < vec<T>::lanes; ++i) p[i] = a.v[i];
}
template <class T>
ATTN_INLINE vec<T> broadcast(T x) {
  vec<T> a;
  for (int i = 0; i < vec<T>::lanes; ++i) a.v[i] = x;
  return a;
}

template <class T>
ATTN_INLINE vec<T> operator+(vec<T> a, vec<T> b) {
  for (int i = 0; i < vec<T>::lanes; ++i) a.v[i] += b.v[i];
  return a;
}
template <class T>
ATTN_INLINE vec<T> operator-(vec<T> a, vec<T> b) {
  for (int i = 0; i < vec<T>::lanes; ++i) a.v[i] -= b.v[i];
  return a;
}
template <class T>
ATTN_INLINE vec<T> operator*(vec<T> a, vec<T> b) {
  for (int i = 0; i < vec<T>::lanes; ++i) a.v[i] *= b.v[i];
  return a;
}
template <class T>
ATTN_INLINE vec<T> operator/(vec<T> a, vec<T> b) {
  for (int i = 0; i < vec<T>::lanes; ++i) a.v[i] /= b.v[i];
  return a;
}
/// a · b + c.
template <class T>
ATTN_INLINE vec<T> multiply_add(vec<T> a, vec<T> b, vec<T> c) {
  for (int i = 0; i < vec<T>::lanes; ++i) c.v[i] += a.v[i] * b.v[i];
  return c;
}
/// The larger one, and b where one is NaN.
template <class T>
ATTN_INLINE vec<T> larger(vec<T> a, vec<T> b) {
  for (int i = 0; i < vec<T>::lanes; ++i) a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
  return a;
}
/// Where a == b, x, else y.
template <class T>
ATTN_INLINE vec<T> where_equal(vec<T> a, vec<T> b, vec<T> x, vec<T> y) {
  for (int i = 0; i < vec<T>::lanes; ++i) a.v[i] = a.v[i] == b.v[i] ? x.v[i] : y.v[i];
  return a;
}
template <class T>
ATTN_INLINE bool all_equal(vec<T> a, vec<T> b) {
  bool equal = true;
  for (int i = 0; i < vec<T>::lanes; ++i) equal = equal && a.v[i] == b.v[i];
  return equal;
}

/// How a power of 2 is put together: in the low bits of ⌊t⌋ + magic, moved up to the exponent.
template <class T>
struct power_of_two;
template <>
struct power_of_two<float> {
  using bits = std::uint32_t;
  static constexpr float least = -127;
  static constexpr float magic = 12582912.0F;  // 1.5 · 2^23
  static constexpr int shift = 23;
};
template <>
struct power_of_two<double> {
  using bits = std::uint64_t;
  static constexpr double least = -1023;
  static constexpr double magic = 6755399441055744.0;  // 1.5 · 2^52
  static constexpr int shift = 52;
};

/// ⌊t⌋ by rounding in the last place of magic, and one less where that went up; NaN stays.
template <class T>
ATTN_INLINE T floor_above_least(T t) {
  using power = power_of_two<T>;
  const T x = t < power::least ? power::least : t;
  const T n = (x + power::magic) - power::magic;
  return n > x ? n - 1 : n;
}
/// t - ⌊t⌋, in [0, 1), and 0 where 2^t underflows.
template <class T>
ATTN_INLINE vec<T> fraction(vec<T> t) {
  using power = power_of_two<T>;
  for (int i = 0; i < vec<T>::lanes; ++i) {
    const T x = t.v[i] < power::least ? power::least : t.v[i];
    t.v[i] = x - floor_above_least(x);
  }
  return t;
}
/// x · 2^⌊t⌋ for t <= 0 and x in [1, 2]; 0 where that underflows, for the exponent 0 makes 0.
template <class T>
ATTN_INLINE vec<T> times_power(vec<T> x, vec<T> t) {
  using power = power_of_two<T>;
  using bits = typename power::bits;
  for (int i = 0; i < vec<T>::lanes; ++i) {
    const auto biased =
        std::bit_cast<bits>(floor_above_least(t.v[i]) + (power::magic - power::least));
    x.v[i] *= std::bit_cast<T>(static_cast<bits>(biased << power::shift));
  }
  return x;
}

/// Nothing need be done for `times_power` to give 0.
struct flush_small {
  explicit flush_small(bool) {}
};

/// Rows of A in the products: 12 accumulators, 3 vectors of B and a broadcast fill 16 registers.
inline constexpr int rows_at_once = 4;
/// Steps of the products' loop at once: two would need more registers than there are.
inline constexpr int steps_at_once = 1;
/// The fewest vectors in a block of queries, as many as there are at most on processors that hardly
/// ever run this: what they would save with fewer, everyone would pay for when compiling.
inline constexpr int fewest_vectors = ATTN_X86 ? vectors_a_block : 1;
/// The widest rows of values, in bytes, of which a whole tile is asked for ahead: wider ones would
/// push each other out of the first cache. Measured.
inline constexpr int widest_tile_ahead = 256;

/// put(c, column c of `from`) for lanes x lanes elements.
template <class T, class Put>
ATTN_INLINE void transpose(const T* from, index from_stride, const Put& put) {
  for (int c = 0; c < vec<T>::lanes; ++c) {
    vec<T> column;
    for (int r = 0; r < vec<T>::lanes; ++r) column.v[r] = from[r * from_stride + c];
    put(c, column);
  }
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
