// Queries into lanes, and results back out of them.

/// to[0 ... numbers) = x, for whole vectors.
template <class T>
ATTN_INLINE void fill(T* to, index numbers, T x) {
  for (index i = 0; i < numbers; i += vec<T>::lanes) store(to + i, broadcast(x));
}

/// Where `transpose` puts its vectors: into rows of memory, as many as there are.
template <class T>
struct into_rows {
  T* to;
  index stride;
  index rows;

  ATTN_INLINE void operator()(int r, vec<T> x) const {
    if (r < rows) store(to + r * stride, x);
  }
};

/// The same, each multiplied by its factor. `finite` is NaN as soon as something isn't.
template <class T>
struct into_divided_rows {
  T* to;
  index stride;
  index rows;
  const T* factor;
  vec<T>& finite;

  ATTN_INLINE void operator()(int r, vec<T> x) const {
    if (r >= rows) return;
    x = x * broadcast(factor[r]);
    finite = finite * x;
    store(to + r * stride, x);
  }
};

/// to[c · to_stride + r] = from[r · from_stride + c] for lanes x lanes elements.
template <class T>
ATTN_INLINE void transpose(const T* from, index from_stride, T* to, index to_stride) {
  transpose(from, from_stride, into_rows<T>{to, to_stride, vec<T>::lanes});
}

/// to(r, c) = from(r, c) for rows x cols elements, along whatever is contiguous in the caller's.
template <class T>
void copy(strided<const T> from, strided<T> to, index rows, index cols, bool by_columns) {
  if (by_columns) {
    std::swap(from.row_stride, from.col_stride);
    std::swap(to.row_stride, to.col_stride);
    std::swap(rows, cols);
  }
  for (index r = 0; r < rows; ++r) {
    const T* a = from.data + r * from.row_stride;
    T* b = to.data + r * to.row_stride;
    for (index c = 0; c < cols; ++c, a += from.col_stride, b += to.col_stride) *b = *a;
  }
}

/// to[c · to_stride + r] = from(r, c) for fewer rows than lanes and whole vectors of columns, and 0
/// for further r up to a vector. Rows are put into a square first: where lanes are written one by
/// one and then read as a vector, a processor waits.
template <class T>
ATTN_NOINLINE void few_rows_to_lanes(const strided<const T>& from, index rows, index cols, T* to,
                                     index to_stride) {
  constexpr index side = vec<T>::lanes;
  alignas(64) T square[side * side];
  fill(square + rows * side, (side - rows) * side, T(0));
  for (index c = 0; c < cols; c += side) {
    for (index r = 0; r < rows; ++r) store(square + r * side, load(from.at(r, c)));
    transpose(square, side, to + c * to_stride, to_stride);
  }
}

/// to[c · lanes + r] = from(r, c) for rows x cols elements, and 0 for r in [rows, lanes): squares
/// of lanes x lanes in registers where rows of `from` are contiguous, else one by one.
template <class T>
void rows_to_lanes(const strided<const T>& from, index rows, index cols, T* to, index lanes) {
  constexpr index side = vec<T>::lanes;
  const index whole = from.col_stride == 1 ? cols / side * side : 0;
  index done = 0;
  if (from.col_stride == 1) {
    for (; done + side <= rows; done += side) {
      for (index c = 0; c < whole; c += side) {
        transpose(from.at(done, c), from.row_stride, to + c * lanes + done, lanes);
      }
      for (index c = whole; c < cols; ++c) {
        for (index r = done; r < done + side; ++r) to[c * lanes + r] = *from.at(r, c);
      }
    }
  }
  const index rest = rows - done;
  for (index c = 0; c < cols && rows < lanes; ++c) {
    const index empty = rest > 0 && c < whole ? done + side : done;
    for (index r = empty; r < lanes; r += side) store(to + c * lanes + r, broadcast(T(0)));
  }
  if (rest == 0) return;
  if (whole > 0) few_rows_to_lanes(from.from(done, 0), rest, whole, to + done, lanes);
  if (whole == cols) return;
  copy(from.from(done, whole), strided<T>{to + whole * lanes + done, 1, lanes}, rest, cols - whole,
       from.row_stride == 1);
}

/// to(r, c) = from[c · lanes + r] for rows x cols elements.
template <class T>
void lanes_to_rows(const T* from, index lanes, const strided<T>& to, index rows, index cols) {
  constexpr index side = vec<T>::lanes;
  const index whole = to.col_stride == 1 ? cols / side * side : 0;
  index done = 0;
  if (to.col_stride == 1) {
    for (; done + side <= rows; done += side) {
      for (index c = 0; c < whole; c += side) {
        transpose(from + c * lanes + done, lanes, to.at(done, c), to.row_stride);
      }
      for (index c = whole; c < cols; ++c) {
        for (index r = done; r < done + side; ++r) *to.at(r, c) = from[c * lanes + r];
      }
    }
  }
  const index rest = rows - done;
  if (rest == 0) return;
  for (index c = 0; c < whole; c += side) {
    transpose(from + c * lanes + done, lanes, into_rows<T>{to.at(done, c), to.row_stride, rest});
  }
  if (whole == cols) return;
  copy(strided<const T>{from + whole * lanes + done, 1, lanes}, to.from(done, whole), rest,
       cols - whole, to.row_stride == 1);
}

/// to(r, c) = from[c · lanes + r] · factor[r] for `rows` rows and whole vectors of columns, each in
/// one piece of memory. Returns whether all is finite, as `divide` does.
template <class T>
ATTN_NOINLINE bool divide_into_rows(const T* from, index lanes, const T* factor,
                                    const strided<T>& to, index rows, index cols) {
  constexpr index side = vec<T>::lanes;
  const vec<T> zero = broadcast(T(0));
  vec<T> finite = zero;
  for (index first = 0; first < rows; first += side) {
    const vec<T> inverse = load(factor + first);
    finite = finite + (inverse - inverse);  // not a zero that a compiler knows
    for (index c = 0; c < cols; c += side) {
      const T* const square = from + c * lanes + first;
      const auto put = [&](index count) {
        return into_divided_rows<T>{to.at(first, c), to.row_stride, count, factor + first, finite};
      };
      if (rows - first >= side) {
        transpose(square, lanes, put(side));  // a number that the compiler knows
      } else {
        transpose(square, lanes, put(rows - first));
      }
    }
  }
  return all_equal(finite, zero);
}
