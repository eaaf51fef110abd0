// Products of whole matrices through the registers of the tile product, for the gradients and
// tangents: C[r][·] = Σ_k A[r, k] · B[k][·], or C += it.

template <class T, int Rows, int Vectors, bool Adds>
ATTN_INLINE void product_rows(strided<const T> a, index depth, const T* b, index b_step, T* c,
                              index c_row) {
  registers<T, Rows, Vectors> sum;
  ATTN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    ATTN_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      sum.at[r][v] = Adds ? load(c + r * c_row + v * vec<T>::lanes) : broadcast(T(0));
    }
  }
  const strided<const T> soon = Adds ? further_on(strided<const T>{c, c_row, 1}, Rows, 0)
                                     : further_on(a, 2 * rows_at_once, 0);
  accumulate<steps_a_line<T, Rows>>(sum, a.data, a.row_stride, a.col_stride, b, b_step, depth,
                                    soon);
  ATTN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    ATTN_UNROLL
    for (int v = 0; v < Vectors; ++v) store(c + r * c_row + v * vec<T>::lanes, sum.at[r][v]);
  }
}

/// Vectors of columns for all rows: as many rows at once as there are registers for, then the rest
/// by halves. Meanwhile the next rows are asked for: of C, where it is added to, since A is a tile
/// then that is in the cache; else of A.
template <class T, int Rows, int Vectors, bool Adds>
ATTN_NOINLINE void product(const strided<const T>& a, index rows, index depth, const T* b,
                           index b_step, T* c, index c_row) {
  index r = 0;
  for (; r + Rows <= rows; r += Rows) {
    product_rows<T, Rows, Vectors, Adds>(a.from(r, 0), depth, b, b_step, c + r * c_row, c_row);
  }
  if constexpr (Rows > 1) {
    if (r < rows) {
      product<T, Rows / 2, Vectors, Adds>(a.from(r, 0), rows - r, depth, b, b_step, c + r * c_row,
                                          c_row);
    }
  }
}

/// The same for any number of vectors of columns, not four as three and one.
template <class T>
ATTN_NOINLINE void add_product(const strided<const T>& a, index rows, index depth, const T* b,
                               index cols, T* c, index c_row) {
  constexpr index lanes = vec<T>::lanes;
  constexpr int most = rows_at_once;
  const index vectors = cols / lanes;
  index v = 0;
  for (; vectors - v >= 3 && vectors - v != 4; v += 3) {
    product<T, most, 3, true>(a, rows, depth, b + v * lanes, cols, c + v * lanes, c_row);
  }
  for (; vectors - v >= 2; v += 2) {
    product<T, most, 2, true>(a, rows, depth, b + v * lanes, cols, c + v * lanes, c_row);
  }
  if (v < vectors) {
    product<T, most, 1, true>(a, rows, depth, b + v * lanes, cols, c + v * lanes, c_row);
  }
}
