// The softmax of one query a lane, over tiles of keys as they come (Milakov, Gimelshein: Online
// normalizer calculation for softmax, 2018).

/// What is known of each lane's row after some tiles.
/// highest = max s, -inf at first;  sum = Σ exp(unit · (s - highest)), both over the keys absorbed.
template <class T>
struct softmax_state {
  T* highest;
  T* sum;
  T* factor;  // what the last tile shrank earlier sums by
};

/// What a block asks for while it works on exponentials, which leave memory idle: where its result
/// goes, and the queries of the block that comes next.
template <class T>
struct soon_needed {
  rows_ahead<T> out;
  rows_ahead<T> query;

  ATTN_INLINE void ask() {
    out.ask();
    query.ask();
  }
};

/// The unit of an exponential of base e in one of base 2.
template <class T>
constexpr T bits(T unit) {
  return unit * T(1.44269504088896340736);
}

/// Turns a tile of scores into weights exp(unit · (s - highest)), where `unit` is in bits (log2 e
/// for finished scores), and raises `highest` to `tile_highest` where that is more. A lane that has
/// seen nothing but -inf counts from 0: its weights are exp(-inf) = 0. A NaN is lost to every
/// maximum but not to the sum.
template <class T, int Vectors>
ATTN_NOINLINE void absorb(T* scores, index keys, const T* tile_highest, T unit_in_bits,
                          softmax_state<T> state, soon_needed<T>& soon) {
  constexpr int lanes = vec<T>::lanes;
  const vec<T> unit = broadcast(unit_in_bits);
  const vec<T> zero = broadcast(T(0));
  const vec<T> lowest = broadcast(-std::numeric_limits<T>::infinity());
  vec<T> base[Vectors];
  vec<T> sum[Vectors];
  ATTN_UNROLL
  for (int v = 0; v < Vectors; ++v) {
    const vec<T> before = load(state.highest + v * lanes);
    const vec<T> now = larger(load(tile_highest + v * lanes), before);
    store(state.highest + v * lanes, now);
    base[v] = where_equal(now, lowest, zero, now);
    store(state.factor + v * lanes, exp2((before - base[v]) * unit));
    sum[v] = zero;
  }
  soon_needed<T> next = soon;  // in registers
  for (index j = 0; j < keys; ++j) {
    next.ask();
    ATTN_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      T* s = scores + j * width<T, Vectors> + v * lanes;
      const vec<T> weight = exp2((load(s) - base[v]) * unit);
      store(s, weight);
      sum[v] = sum[v] + weight;
    }
  }
  ATTN_UNROLL
  for (int v = 0; v < Vectors; ++v) {
    T* s = state.sum + v * lanes;
    store(s, multiply_add(load(s), load(state.factor + v * lanes), sum[v]));
  }
  soon = next;
}

/// The largest score of each lane in a tile.
template <class T, int Vectors>
ATTN_NOINLINE void find_highest(const T* scores, index keys, T* highest) {
  constexpr int lanes = vec<T>::lanes;
  vec<T> most[Vectors];
  ATTN_UNROLL
  for (int v = 0; v < Vectors; ++v) most[v] = broadcast(-std::numeric_limits<T>::infinity());
  for (index j = 0; j < keys; ++j) {
    ATTN_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      most[v] = larger(load(scores + j * width<T, Vectors> + v * lanes), most[v]);
    }
  }
  ATTN_UNROLL
  for (int v = 0; v < Vectors; ++v) store(highest + v * lanes, most[v]);
}

/// Turns a tile of scores into exp(unit · (s - highest)) · factor, and 0 where the sum is 0.
template <class T>
ATTN_NOINLINE void weigh(T* scores, index keys, index row_lanes, T unit_in_bits,
                         softmax_state<T> state) {
  constexpr int lanes = vec<T>::lanes;
  const vec<T> zero = broadcast(T(0));
  const vec<T> lowest = broadcast(-std::numeric_limits<T>::infinity());
  for (index i = 0; i < keys * row_lanes; i += lanes) {
    const index w = i % row_lanes;
    const vec<T> most = load(state.highest + w);
    const vec<T> below = load(scores + i) - where_equal(most, lowest, zero, most);
    const vec<T> weight = exp2(below * broadcast(unit_in_bits)) * load(state.factor + w);
    store(scores + i, where_equal(load(state.sum + w), zero, zero, weight));
  }
}

/// Divides a block's weighted sums by the sums of weights, whose inverses are the factors. Returns
/// whether all is finite then. The 0 that shows it is one that no compiler knows: with
/// -fno-signed-zeros g++ 12 takes a vector times a constant 0 for 0, NaN or not.
template <class T, int Vectors>
ATTN_NOINLINE bool divide(const T* factor, index value_depth, T* out) {
  constexpr int lanes = vec<T>::lanes;
  const vec<T> zero = broadcast(T(0));
  constexpr int columns = Vectors == 1 ? 2 : 1;  // at once: products wait for one another
  vec<T> inverse[Vectors];
  vec<T> finite[columns][Vectors];  // 0, and NaN as soon as something isn't
  ATTN_UNROLL
  for (int v = 0; v < Vectors; ++v) {
    inverse[v] = load(factor + v * lanes);
    ATTN_UNROLL
    for (int n = 0; n < columns; ++n) {
      finite[n][v] = inverse[v] - inverse[v];  // shows a sum that isn't where there are no values
    }
  }
  for (index c = 0; c < value_depth; c += columns) {
    ATTN_UNROLL
    for (int n = 0; n < columns; ++n, out += width<T, Vectors>) {
      if (c + n == value_depth) break;
      ATTN_UNROLL
      for (int v = 0; v < Vectors; ++v) {
        const vec<T> x = load(out + v * lanes) * inverse[v];
        finite[n][v] = finite[n][v] * x;
        store(out + v * lanes, x);
      }
    }
  }
  bool all = true;
  ATTN_UNROLL
  for (int v = 0; v < Vectors; ++v) {
    ATTN_UNROLL
    for (int n = 1; n < columns; ++n) finite[0][v] = finite[0][v] + finite[n][v];
    all = all && all_equal(finite[0][v], zero);
  }
  return all;
}
