// Queries into lanes, and results back out of them.

/// to[c · to_stride + r] = from(r, c) for rows x cols elements, and 0 for r in [rows, lanes): whole
/// squares of lanes x lanes in registers where rows of `from` are contiguous, else one by one.
template <class T>
void rows_to_lanes(strided<const T> from, index rows, index cols, T* to, index lanes) {
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
  for (index c = 0; c < cols; ++c) {
    for (index r = done; r < rows; ++r) to[c * lanes + r] = *from.at(r, c);
    for (index r = rows; r < lanes; ++r) to[c * lanes + r] = T(0);
  }
}

/// to(r, c) = from[c · lanes + r] for rows x cols elements.
template <class T>
void lanes_to_rows(const T* from, index lanes, strided<T> to, index rows, index cols) {
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
  for (index c = 0; c < cols; ++c) {
    for (index r = done; r < rows; ++r) *to.at(r, c) = from[c * lanes + r];
  }
}
