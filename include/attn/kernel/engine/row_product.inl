// The two products of few queries: lanes over features, keys and values read as they lie.
//
// Scores: one accumulator a pair of row and key, its lanes summed at the end. Weighted sum: one a
// row and vector of features. Rows share what is loaded. Beside every load, a line of rows that
// come later is asked for.

/// Numbers of a row, made whole vectors.
template <class T>
constexpr index whole_vectors(index numbers) {
  return (numbers + vec<T>::lanes - 1) / vec<T>::lanes * vec<T>::lanes;
}

/// Lane w: the sum of the lanes of x[w], for instruction sets without a quicker way.
template <class T>
ATTN_INLINE vec<T> sum_each(const vec<T>* x) {
  constexpr int lanes = vec<T>::lanes;
  alignas(64) T square[lanes * lanes];
  alignas(64) T turned[lanes * lanes];
  ATTN_UNROLL
  for (int w = 0; w < lanes; ++w) store(square + w * lanes, x[w]);
  transpose(square, lanes, turned, lanes);
  vec<T> sum = load(turned);
  ATTN_UNROLL
  for (int w = 1; w < lanes; ++w) sum = sum + load(turned + w * lanes);
  return sum;
}

/// Rows to ask for, line after line where they follow each other in memory: processors go on by
/// themselves from what they see in order (1.8 times as fast on a Zen 4 as row beside row). Into
/// the first cache where it takes as many requests, else into the second.
template <class T>
struct rows_to_come {
  std::uintptr_t at = 0;
  index row_stride = 0;
  bool in_order = false;  // one row after the other, of whole vectors
  bool into_first = false;

  rows_to_come() = default;
  rows_to_come(strided<const T> a, index cols, bool into_first_cache)
      : at(reinterpret_cast<std::uintptr_t>(a.data)),
        row_stride(a.row_stride),
        in_order(a.row_stride == cols && cols % vec<T>::lanes == 0),
        into_first(into_first_cache) {}

  ATTN_INLINE void ask(index offset) const {
    if (into_first) {
      prefetch<T, 3>(at, offset);
    } else {
      prefetch<T, 2>(at, offset);
    }
  }

  [[nodiscard]] ATTN_INLINE rows_to_come after(index numbers) const {
    rows_to_come later = *this;
    later.at = moved<T>(at, numbers);
    return later;
  }
  [[nodiscard]] ATTN_INLINE rows_to_come after_rows(index n) const { return after(n * row_stride); }
  /// After some columns of each row are done.
  [[nodiscard]] ATTN_INLINE rows_to_come after_columns(index n, index rows) const {
    return after(in_order ? n * rows : n);
  }
};

/// Adds to products what is left of the features beyond whole vectors.
template <class T, int Rows, int Columns>
ATTN_NOINLINE void add_tails(const T* query, index query_row, const T* const* key, index from,
                             index depth, T* s) {
  for (int r = 0; r < Rows; ++r) {
    for (int j = 0; j < Columns; ++j) {
      T tail = 0;
      for (index e = 0; e < depth; ++e) tail += query[r * query_row + e] * key[j][from + e];
      s[r * Columns + j] += tail;
    }
  }
}

/// score: scores[r][j] = scale · Σ_c query[r][c] · key[j][c] for Rows rows and as many keys as fill
/// the registers. One accumulator a pair; turned, they are summed all at once.
template <class T, int Rows>
ATTN_INLINE void score_pairs(const T* query, strided<const T> key, rows_to_come<T> next, index keys,
                             index depth, T scale, T* scores) {
  constexpr int lanes = vec<T>::lanes;
  constexpr int columns = lanes / Rows;
  const index row = whole_vectors<T>(depth);
  const T* k[columns];
  ATTN_UNROLL
  for (int j = 0; j < columns; ++j) k[j] = key.at(std::min<index>(j, keys - 1), 0);
  const index next_key = next.in_order ? lanes : next.row_stride;
  const index next_feature = next.in_order ? columns : 1;
  vec<T> c[lanes];  // row r, key j: r · columns + j
  ATTN_UNROLL
  for (int n = 0; n < lanes; ++n) c[n] = broadcast(T(0));
  index e = 0;
  for (; e + lanes <= depth; e += lanes) {
    vec<T> q[Rows];
    ATTN_UNROLL
    for (int r = 0; r < Rows; ++r) q[r] = load(query + r * row + e);
    ATTN_UNROLL
    for (int j = 0; j < columns; ++j) {
      const vec<T> x = load(k[j] + e);
      next.ask(j * next_key + e * next_feature);
      ATTN_UNROLL
      for (int r = 0; r < Rows; ++r) c[r * columns + j] = multiply_add(q[r], x, c[r * columns + j]);
    }
  }
  alignas(64) T s[lanes];
  store(s, sum_each(c));
  if (e < depth) add_tails<T, Rows, columns>(query + e, row, k, e, depth - e, s);
  store(s, load(s) * broadcast(scale));
  const index count = std::min<index>(keys, columns);
  ATTN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    if (count == columns) {
      std::memcpy(scores + r * keys_a_tile, s + r * columns, columns * sizeof(T));
    } else {
      std::copy_n(s + r * columns, count, scores + r * keys_a_tile);
    }
  }
}

/// weighted sum: out[r][c] += Σ_j weights[r][j] · value[j][c] for Rows rows and Vectors of columns.
template <class T, int Rows, int Vectors>
ATTN_INLINE void add_values(const T* weights, strided<const T> value, rows_to_come<T> next,
                            index keys, T* out, index out_row) {
  constexpr int lanes = vec<T>::lanes;
  const index next_key = next.in_order ? Vectors * lanes : next.row_stride;
  vec<T> c[Rows][Vectors];
  ATTN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    ATTN_UNROLL
    for (int v = 0; v < Vectors; ++v) c[r][v] = load(out + r * out_row + v * lanes);
  }
  const T* x = value.data;
  for (index j = 0; j < keys; ++j, x += value.row_stride) {
    vec<T> w[Rows];
    ATTN_UNROLL
    for (int r = 0; r < Rows; ++r) w[r] = broadcast(weights[r * keys_a_tile + j]);
    ATTN_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      const vec<T> y = load(x + v * lanes);
      next.ask(j * next_key + v * lanes);
      ATTN_UNROLL
      for (int r = 0; r < Rows; ++r) c[r][v] = multiply_add(w[r], y, c[r][v]);
    }
  }
  ATTN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    ATTN_UNROLL
    for (int v = 0; v < Vectors; ++v) store(out + r * out_row + v * lanes, c[r][v]);
  }
}

/// All columns: as many vectors at once as there are registers for, then the rest by halves, and
/// what does not fill a vector one by one.
template <class T, int Rows, int Vectors>
ATTN_NOINLINE void add_all_values(const T* weights, strided<const T> value, rows_to_come<T> next,
                                  index keys, index value_depth, T* out, index out_row) {
  constexpr int step = Vectors * vec<T>::lanes;
  index c = 0;
  for (; c + step <= value_depth; c += step) {
    add_values<T, Rows, Vectors>(weights, value.from(0, c), next.after_columns(c, keys), keys,
                                 out + c, out_row);
  }
  if (c == value_depth) return;
  if constexpr (Vectors > 1) {
    add_all_values<T, Rows, Vectors / 2>(weights, value.from(0, c), next.after_columns(c, keys),
                                         keys, value_depth - c, out + c, out_row);
  } else {
    for (int r = 0; r < Rows; ++r) {
      for (index j = 0; j < keys; ++j) {
        const T w = weights[r * keys_a_tile + j];
        for (index tail = c; tail < value_depth; ++tail) {
          out[r * out_row + tail] += w * value.data[j * value.row_stride + tail];
        }
      }
    }
  }
}
