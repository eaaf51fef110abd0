// The one product of the engine: C[r][lanes] += Σ_k A[r, k] · B[k][lanes].
//
//            B: depth x lanes, contiguous rows           C: Rows x Vectors registers,
//          ┌────────┬────────┬────────┐                  each held by one row of A
//        k │ vector │ vector │ vector │                  and one vector of lanes
//          └────────┴────────┴────────┘
//   A[r,k] ▪ broadcast, any strides          ▪▪▪ -> C[r][0] C[r][1] C[r][2]
//
// Scores: A = keys, B = queries (transposed). Weighted sum: A = valuesᵀ, B = weights.

template <class T, int Rows, int Vectors>
struct registers {
  vec<T> at[Rows][Vectors];
};

template <class T, int Vectors>
inline constexpr int width = Vectors * vec<T>::lanes;

/// The address `offset` numbers after another, which may be anywhere: no pointer may be moved so.
template <class T>
ATTN_INLINE std::uintptr_t moved(std::uintptr_t address, index offset) {
  return address + static_cast<std::uintptr_t>(offset) * sizeof(T);
}

/// Asks for the line of memory at such an address, into the first cache or only into the second.
template <class T, int Locality = 3>
ATTN_INLINE void prefetch(std::uintptr_t address, index offset) {
  // NOLINTNEXTLINE(performance-no-int-to-ptr): as above
  ATTN_PREFETCH(moved<T>(address, offset), Locality);
}
template <class T>
ATTN_INLINE void prefetch(const T* a, index offset) {
  prefetch<T>(reinterpret_cast<std::uintptr_t>(a), offset);
}

/// What lies some rows and columns further on in a matrix, which may be beyond its end: for asking.
template <class T>
ATTN_INLINE strided<const T> further_on(strided<const T> a, index rows, index cols) {
  const auto from = reinterpret_cast<std::uintptr_t>(a.data);
  const std::uintptr_t to = moved<T>(from, rows * a.row_stride + cols * a.col_stride);
  // NOLINTNEXTLINE(performance-no-int-to-ptr): no pointer may be moved beyond an end
  return {reinterpret_cast<const T*>(to), a.row_stride, a.col_stride};
}

/// Memory that will be needed before long: rows of a matrix, asked for line by line between other
/// work, since few lines can be on their way at once.
template <class T>
class rows_ahead {
 public:
  rows_ahead() = default;
  rows_ahead(strided<const T> a, index rows, index cols) {
    if (a.col_stride != 1) {
      std::swap(a.row_stride, a.col_stride);
      std::swap(rows, cols);
    }
    if (a.data == nullptr || a.col_stride != 1 || cols <= 0) return;
    row_ = reinterpret_cast<std::uintptr_t>(a.data);
    stride_ = a.row_stride;
    rows_ = rows;
    cols_ = cols;
  }

  ATTN_INLINE void ask() {
    if (rows_ <= 0) return;
    prefetch<T>(row_, col_);
    col_ += index{64 / sizeof(T)};
    if (col_ < cols_) return;
    col_ = 0;
    row_ = moved<T>(row_, stride_);
    --rows_;
  }

 private:
  std::uintptr_t row_ = 0;
  index stride_ = 0;
  index rows_ = 0;
  index cols_ = 0;
  index col_ = 0;
};

/// Which lanes of a block a product works on: all, as many vectors as it is made for, or some of
/// more.
enum class among { all, some };

/// From one [lane] to the next, of which there are `lanes`: known to the compiler where it is all.
template <class T, int Vectors, among Lanes>
ATTN_INLINE index lanes_apart(index lanes) {
  return Lanes == among::all ? index{width<T, Vectors>} : lanes;
}

/// One step of the product. Its rows are reached from the first and the middle one, which takes
/// fewer registers for addresses.
template <class T, int Rows, int Vectors>
ATTN_INLINE void add_step(registers<T, Rows, Vectors>& c, const T* a, index a_row, const T* b) {
  constexpr int half = Rows / 2;
  const T* const middle = a + half * a_row;
  vec<T> x[Vectors];
  ATTN_UNROLL
  for (int v = 0; v < Vectors; ++v) x[v] = load(b + v * vec<T>::lanes);
  ATTN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    const vec<T> y = broadcast(r < half ? a[r * a_row] : middle[(r - half) * a_row]);
    ATTN_UNROLL
    for (int v = 0; v < Vectors; ++v) c.at[r][v] = multiply_add(y, x[v], c.at[r][v]);
  }
}

/// In how many steps the product of so many rows reads as much of A as a line of memory holds.
template <class T, int Rows>
inline constexpr index steps_a_line =
    std::clamp<index>(64 / (Rows * index{sizeof(T)}), 1, steps_at_once);

/// C += A B. Each `Pace` steps ask for a line of what is needed `soon`: step k of its column k,
/// whose rows take turns. That is mostly what will be read of A later: processors do not guess it
/// from the order in which A is read.
template <index Pace, class T, int Rows, int Vectors>
ATTN_INLINE void accumulate(registers<T, Rows, Vectors>& c, const T* a, index a_row, index a_step,
                            const T* b, index b_step, index depth, strided<const T> soon) {
  static_assert(steps_at_once <= 2 && steps_at_once % Pace == 0);
  auto column = reinterpret_cast<std::uintptr_t>(soon.data);
  index k = 0;
  for (; k + steps_at_once <= depth; k += steps_at_once) {
    ATTN_UNROLL
    for (index s = 0; s < steps_at_once; ++s) {
      if (s % Pace == 0) {
        prefetch<T>(column, ((k + s) / Pace & (Rows - 1)) * soon.row_stride);
        column = moved<T>(column, Pace * soon.col_stride);
      }
      add_step(c, a, a_row, b);
      a += a_step;
      b += b_step;
    }
  }
  if (k < depth) add_step(c, a, a_row, b);
}

/// scores[j][lane] = scale · Σ_e key[j, e] · query[e][lane], plus what is there already if `adds`,
/// for Rows keys and Vectors of the lanes; raises `highest` to the largest score of each lane.
template <class T, int Rows, int Vectors, among Lanes>
ATTN_INLINE void score_rows(strided<const T> key, const T* query, index lanes, index depth,
                            const T& scale, bool adds, T* scores, T* highest) {
  const index apart = lanes_apart<T, Vectors, Lanes>(lanes);
  registers<T, Rows, Vectors> c;
  ATTN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    ATTN_UNROLL
    for (int v = 0; v < Vectors; ++v) c.at[r][v] = broadcast(T(0));
  }
  accumulate<steps_a_line<T, Rows>>(c, key.data, key.row_stride, key.col_stride, query, apart,
                                    depth, further_on(key, 2 * rows_at_once, 0));
  if (adds) {
    const vec<T> factor = broadcast(scale);
    ATTN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      ATTN_UNROLL
      for (int v = 0; v < Vectors; ++v) {
        const vec<T> mask = load(scores + r * apart + v * vec<T>::lanes);
        c.at[r][v] = multiply_add(c.at[r][v], factor, mask);
      }
    }
  } else if (scale != T(1)) {
    const vec<T> factor = broadcast(scale);
    ATTN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      ATTN_UNROLL
      for (int v = 0; v < Vectors; ++v) c.at[r][v] = c.at[r][v] * factor;
    }
  }
  ATTN_UNROLL
  for (int v = 0; v < Vectors; ++v) {
    vec<T> most = load(highest + v * vec<T>::lanes);
    ATTN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      store(scores + r * apart + v * vec<T>::lanes, c.at[r][v]);
      most = larger(c.at[r][v], most);
    }
    store(highest + v * vec<T>::lanes, most);
  }
}

/// out[c][lane] = out[c][lane] · factor[lane] + Σ_j value[j, c] · weights[j][lane] for Rows columns
/// c of the values and Vectors of the lanes. Without factors `out` is not read.
template <class T, int Rows, int Vectors, among Lanes>
ATTN_INLINE void weighted_sum_rows(strided<const T> value, const T* weights, index lanes,
                                   index keys, index ahead, const T* factor, T* out) {
  const index apart = lanes_apart<T, Vectors, Lanes>(lanes);
  registers<T, Rows, Vectors> c;
  ATTN_UNROLL
  for (int v = 0; v < Vectors; ++v) {
    ATTN_UNROLL
    for (int r = 0; r < Rows; ++r) c.at[r][v] = broadcast(T(0));
  }
  if (factor != nullptr) {
    ATTN_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      const vec<T> shrink = load(factor + v * vec<T>::lanes);
      ATTN_UNROLL
      for (int r = 0; r < Rows; ++r) {
        c.at[r][v] = load(out + r * apart + v * vec<T>::lanes) * shrink;
      }
    }
  }
  const strided<const T> soon{further_on(value, ahead, 0).data, 0, value.row_stride};
  accumulate<1>(c, value.data, value.col_stride, value.row_stride, weights, apart, keys, soon);
  ATTN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    ATTN_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      store(out + r * apart + v * vec<T>::lanes, c.at[r][v]);
    }
  }
}

/// As many rows at once as there are registers for, then the rest by halves. What will be read of
/// keys two groups further on, and of the values `ahead` of these, is asked for meanwhile.
template <class T, int Rows, int Vectors, among Lanes = among::all>
ATTN_NOINLINE void score(const strided<const T>& key, const T* query, index lanes, index depth,
                         const T& scale, index keys, bool adds, T* scores, T* highest) {
  const index apart = lanes_apart<T, Vectors, Lanes>(lanes);
  index j = 0;
  for (; j + Rows <= keys; j += Rows) {
    score_rows<T, Rows, Vectors, Lanes>(key.from(j, 0), query, lanes, depth, scale, adds,
                                        scores + j * apart, highest);
  }
  if constexpr (Rows > 1) {
    if (j < keys) {
      score<T, Rows / 2, Vectors, Lanes>(key.from(j, 0), query, lanes, depth, scale, keys - j, adds,
                                         scores + j * apart, highest);
    }
  }
}

template <class T, int Rows, int Vectors, among Lanes = among::all>
ATTN_NOINLINE void weighted_sum(const strided<const T>& value, const T* weights, index lanes,
                                index keys, index ahead, index value_depth, const T* factor,
                                T* out) {
  const index apart = lanes_apart<T, Vectors, Lanes>(lanes);
  index c = 0;
  for (; c + Rows <= value_depth; c += Rows) {
    weighted_sum_rows<T, Rows, Vectors, Lanes>(value.from(0, c), weights, lanes, keys, ahead,
                                               factor, out + c * apart);
  }
  if constexpr (Rows > 1) {
    if (c < value_depth) {
      weighted_sum<T, Rows / 2, Vectors, Lanes>(value.from(0, c), weights, lanes, keys, ahead,
                                                value_depth - c, factor, out + c * apart);
    }
  }
}
