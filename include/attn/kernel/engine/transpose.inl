// Queries into lanes, and results back out of them.

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

/// to[c · to_stride + r] = from(r, c) for rows x cols elements, and 0 for r in [rows, lanes): whole
/// squares of lanes x lanes in registers where rows of `from` are contiguous, else one by one.
template <class T>
void rows_to_lanes(const strided<const T>& from, index rows, index cols, T* to, index lanes) {
  constexpr index side = vec<T>::lanes;
  index done = 0;
  if (from.col_stride == 1) {
    for (; done + side <= rows; done += side) {
      index c = 0;
      for (; c + side <= cols; c += side) {
        transpose(from.at(done, c), from.row_stride, to + c * lanes + done, lanes);
      }
      for (; c < cols; ++c) {
        for (index r = done; r < done + side; ++r) to[c * lanes + r] = *from.at(r, c);
      }
    }
  }
  for (index c = 0; c < cols && rows < lanes; ++c) {
    for (index r = done; r < lanes; r += side) store(to + c * lanes + r, broadcast(T(0)));
  }
  copy(from.from(done, 0), strided<T>{to + done, 1, lanes}, rows - done, cols,
       from.row_stride == 1);
}

/// to(r, c) = from[c · lanes + r] for rows x cols elements.
template <class T>
void lanes_to_rows(const T* from, index lanes, const strided<T>& to, index rows, index cols) {
  constexpr index side = vec<T>::lanes;
  index done = 0;
  if (to.col_stride == 1) {
    for (; done + side <= rows; done += side) {
      index c = 0;
      for (; c + side <= cols; c += side) {
        transpose(from + c * lanes + done, lanes, to.at(done, c), to.row_stride);
      }
      for (; c < cols; ++c) {
        for (index r = done; r < done + side; ++r) *to.at(r, c) = from[c * lanes + r];
      }
    }
  }
  copy(strided<const T>{from + done, 1, lanes}, to.from(done, 0), rows - done, cols,
       to.row_stride == 1);
}
