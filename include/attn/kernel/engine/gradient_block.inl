// What a block of queries works in on the backward pass, and how it is gathered.

/// Where the backward pass of a block keeps its numbers: [something][lane], and rows of features.
template <class T>
struct gradient_memory {
  T* query;           // depth: lanes are queries
  T* out_gradient;    // value_depth
  T* out;             // value_depth
  T* query_gradient;  // depth
  T* scores;          // keys_a_tile: scores, then weights
  T* gradient;        // keys_a_tile: of weights, then of scores
  T* before;          // keys_a_tile: scores before they are changed
  T* mask;            // keys_a_tile
  T* kept;            // keys_a_tile: factors of dropout
  T* base;            // log-sum-exps; inf for a row that is empty
  T* delta;
  T* query_rows;         // lanes x depth, in whole vectors, times the scale
  T* out_gradient_rows;  // lanes x value_depth
  T* sums;               // keys_a_tile x either depth: what a tile adds to memory with gaps

  static constexpr index size(index depth, index value_depth, index keys, index lanes) {
    const index wide = whole_vectors<T>(depth), value_wide = whole_vectors<T>(value_depth);
    return (2 * depth + 2 * value_depth + 5 * keys + 2 + wide + value_wide) * lanes +
           keys * std::max(wide, value_wide);
  }
  static gradient_memory of(T* from, index depth, index value_depth, index keys, index lanes) {
    const auto next = [&](index rows) { return std::exchange(from, from + rows * lanes); };
    gradient_memory at{};
    at.query = next(depth);
    at.out_gradient = next(value_depth);
    at.out = next(value_depth);
    at.query_gradient = next(depth);
    for (T** tile : {&at.scores, &at.gradient, &at.before, &at.mask, &at.kept}) *tile = next(keys);
    at.base = next(1);
    at.delta = next(1);
    at.query_rows = next(whole_vectors<T>(depth));
    at.out_gradient_rows = next(whole_vectors<T>(value_depth));
    at.sums = from;
    return at;
  }
};

/// One block of queries in the backward pass: what the steps below share.
template <class T>
struct gradient_block {
  const gradient_problem<T>& g;
  const gradient_rules<T>& rules;
  gradient_memory<T> at;
  index first;
  index rows;
  index lanes;
  bool finite = true;      // queries times the scale, and gradients of results
  bool has_empty = false;  // a row that saw nothing
};

template <class T>
bool all_finite(strided<const T> of, index rows, index cols) {
  if (of.col_stride != 1 && of.row_stride == 1) {
    std::swap(of.row_stride, of.col_stride);
    std::swap(rows, cols);
  }
  const vec<T> zero = broadcast(T(0));
  vec<T> sums = zero;  // of x - x, NaN as soon as something isn't; for 0 · x see `divide`
  T sum = 0;
  for (index i = 0; i < rows; ++i) {
    const T* a = of.at(i, 0);
    index c = 0;
    if (of.col_stride == 1) {
      for (; c + vec<T>::lanes <= cols; c += vec<T>::lanes) {
        const vec<T> x = load(a + c);
        sums = sums + (x - x);
      }
    }
    for (; c < cols; ++c) {
      const T x = a[c * of.col_stride];
      sum += x - x;
    }
  }
  return sum == T(0) && all_equal(sums, zero);
}

/// to[i · wide + c] = factor · from(i, c), and 0 for c beyond the columns.
template <class T>
void pack_rows(strided<const T> from, index rows, index cols, T factor, T* to) {
  const index wide = whole_vectors<T>(cols);
  const vec<T> factors = broadcast(factor);
  for (index i = 0; i < rows; ++i, to += wide) {
    const T* a = from.at(i, 0);
    index c = 0;
    if (from.col_stride == 1) {
      for (; c + vec<T>::lanes <= cols; c += vec<T>::lanes) store(to + c, load(a + c) * factors);
    }
    for (; c < cols; ++c) to[c] = a[c * from.col_stride] * factor;
    std::fill(to + cols, to + wide, T(0));
  }
}

/// to(i, c) += from[i · cols + c]
template <class T>
void add_rows(const T* from, index rows, index cols, strided<T> to) {
  for (index i = 0; i < rows; ++i, from += cols) {
    T* a = to.at(i, 0);
    index c = 0;
    if (to.col_stride == 1) {
      for (; c + vec<T>::lanes <= cols; c += vec<T>::lanes) {
        store(a + c, load(a + c) + load(from + c));
      }
    }
    for (; c < cols; ++c) a[c * to.col_stride] += from[c];
  }
}

/// base, δ, and both kinds of rows. A row that saw nothing, or that nothing came back for, passes
/// nothing back, whatever is in it: it gets a base of inf, at which every weight is 0, and zeros
/// for all else.
template <class T>
void gather_rows(gradient_block<T>& block) {
  const gradient_problem<T>& g = block.g;
  const problem<T>& p = g.p;
  const gradient_memory<T>& at = block.at;
  const index lanes = block.lanes;
  const strided<const T> query = p.query.from(block.first, 0);
  const strided<const T> out_gradient = g.out_gradient.from(block.first, 0);
  rows_to_lanes(query, block.rows, p.depth, at.query, lanes);
  rows_to_lanes(out_gradient, block.rows, p.value_depth, at.out_gradient, lanes);
  pack_rows(query, block.rows, p.depth, p.scale, at.query_rows);
  pack_rows(out_gradient, block.rows, p.value_depth, T(1), at.out_gradient_rows);
  const auto packed_are_finite = [&](const T* packed, index cols) {
    return all_finite(strided<const T>{packed, whole_vectors<T>(cols), 1}, block.rows, cols);
  };
  block.finite = packed_are_finite(at.query_rows, p.depth) &&
                 packed_are_finite(at.out_gradient_rows, p.value_depth);
  rows_to_lanes(g.out.from(block.first, 0), block.rows, p.value_depth, at.out, lanes);
  const vec<T> zero = broadcast(T(0));
  for (index v = 0; v < lanes; v += vec<T>::lanes) {
    vec<T> delta = zero;
    vec<T> came_back = zero;  // stays so where nothing has
    for (index i = v; i < p.value_depth * lanes; i += lanes) {
      const vec<T> gradient = load(at.out_gradient + i);
      delta = multiply_add(gradient, load(at.out + i), delta);
      came_back = where_equal(gradient, zero, came_back, broadcast(T(1)));
    }
    store(at.delta + v, delta);
    store(at.base + v, came_back);
  }
  std::fill(at.base + block.rows, at.base + lanes, std::numeric_limits<T>::infinity());
  for (index w = 0; w < block.rows; ++w) {
    const index i = block.first + w;
    const T lse = *g.log_sum_exp.at(i, 0);
    const T lse_gradient =
        g.log_sum_exp_gradient.data == nullptr ? T(0) : *g.log_sum_exp_gradient.at(i, 0);
    const bool nothing_came_back = at.base[w] == T(0) && lse_gradient == T(0);
    if (lse == -std::numeric_limits<T>::infinity() || nothing_came_back) {
      block.has_empty = true;
      at.base[w] = std::numeric_limits<T>::infinity();
      at.delta[w] = T(0);
      for (index c = 0; c < p.depth; ++c) at.query[c * lanes + w] = T(0);
      for (index c = 0; c < p.value_depth; ++c) at.out_gradient[c * lanes + w] = T(0);
      continue;
    }
    at.base[w] = lse;
    at.delta[w] -= lse_gradient;
  }
}
