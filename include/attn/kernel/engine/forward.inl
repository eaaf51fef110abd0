// The forward pass over one block of queries: score, change, mask, softmax, weighted sum, a tile of
// keys at a time.

/// The products for a number of vectors of a block's lanes.
template <class T>
struct block_products {
  void (*score)(const strided<const T>& key, const T* query, index lanes, index depth,
                const T& scale, index keys, bool adds, T* scores, T* highest);
  void (*weighted_sum)(const strided<const T>& value, const T* weights, index lanes, index keys,
                       index ahead, index value_depth, const T* factor, T* out);
};
template <class T, int Vectors, among Lanes>
inline constexpr block_products<T> products_of{score<T, rows_at_once, Vectors, Lanes>,
                                               weighted_sum<T, rows_at_once, Vectors, Lanes>};

/// The stages in loops made for a number of vectors of lanes; the rest is the same code for any.
template <class T>
struct block_stages {
  std::int32_t vectors;
  index lanes;
  block_products<T> products;
  void (*find_highest)(const T* scores, index keys, T* highest);
  void (*apply_mask)(const T* mask, bool adds, index keys, T* scores, T* highest);
  void (*absorb)(T* scores, index keys, const T* tile_highest, T unit_in_bits,
                 softmax_state<T> state, soon_needed<T>& soon);
  bool (*divide)(const T* factor, index value_depth, T* out);

  /// The products for a part of a tile.
  [[nodiscard]] const block_products<T>& products_for(const tile_part& part) const {
    if constexpr (fewest_vectors < vectors_a_block) {
      if (part.vectors < vectors) return products_of<T, vectors_a_block - 1, among::some>;
    }
    return products;
  }
};
template <class T, int Vectors>
inline constexpr block_stages<T> stages_of{Vectors,
                                           width<T, Vectors>,
                                           products_of<T, Vectors, among::all>,
                                           find_highest<T, Vectors>,
                                           apply_mask<T, Vectors>,
                                           absorb<T, Vectors>,
                                           divide<T, Vectors>};

/// What the steps below share.
template <class T>
struct query_block : query_rows<T> {
  const block_stages<T>& stages;
  block_memory<T> at;
  T scale;  // what products are multiplied by to become scores,
  T unit;   // and what the softmax still multiplies scores by
};

/// How the weighted sum is formed: at first without a look at what is summed; where the result is
/// not finite, with care for what is not in the values; and where that is not finite either, with
/// care on shrunk values, since a sum of large ones may overflow before it is divided.
enum class care { none, exact, shrunk };

/// The parts of a tile. Where a score change is asked about each score, and with care, which sums
/// whole tiles, there is one.
template <class T>
tile_parts<T> parts_of(const query_block<T>& block, const tile& t, coverage seen, care with) {
  const bool cut = seen == coverage::some && !block.rules.changes && with == care::none;
  return parts_of(t, block.stages.vectors, cut, block.rules);
}

/// score, scale and change, mask: leaves the tile's scores and the largest of each lane. Without a
/// change, the product adds its scores to the mask where those are to be; a NaN or inf under the
/// mask then shows in the sums, and care puts -inf in its place.
template <class T>
ATTN_INLINE void score_tile_of(const query_block<T>& block, const score_tile<T>& s,
                               const tile_parts<T>& parts, coverage seen, care with) {
  const block_memory<T>& at = block.at;
  const score_rules<T>& rules = block.rules;
  const bool masked = rules.biased || seen == coverage::some;
  const bool adds = masked && !rules.changes;
  if (adds) rules.write_mask(rules, s);
  fill(at.tile_highest, s.lanes, -std::numeric_limits<T>::infinity());
  const key_memory<T>& memory = block.p.memory;
  for (const tile_part& part : parts) {
    const index lane = part.vector * vec<T>::lanes;
    for (index j = part.keys.begin; j < part.keys.end;) {
      const index keys = memory.together(s.place.key + j, part.keys.end - j);
      block.stages.products_for(part).score(memory.key_at(s.place.key + j), at.query + lane,
                                            s.lanes, block.p.depth, block.scale, keys, adds,
                                            at.scores + j * s.lanes + lane, at.tile_highest + lane);
      j += keys;
    }
  }
  if (rules.changes) {
    rules.change_scores(rules, s);
    block.stages.find_highest(at.scores, s.place.keys, at.tile_highest);
  }
  if (masked && (rules.changes || with != care::none)) {
    rules.write_mask(rules, {at.mask, s.lanes, s.place, s.row, s.offset});
    block.stages.apply_mask(at.mask, rules.changes, s.place.keys, at.scores, at.tile_highest);
  }
}

/// Fewer keys than 2^32 cannot undo this shrinking.
template <class T>
constexpr T shrinking(care with) {
  return with == care::shrunk ? T(0x1p-32) : T(1);
}

/// Values without what is not finite, which is 0, shrunk where that is wanted.
template <class T>
void copy_finite(const key_memory<T>& memory, index first, index keys, index value_depth, care with,
                 T* to, index to_row) {
  for (index j = 0; j < keys; ++j) {
    const strided<const T> value = memory.value_at(first + j);
    for (index c = 0; c < value_depth; ++c) {
      const T x = *value.at(0, c);
      to[j * to_row + c] = x - x == T(0) ? x * shrinking<T>(with) : T(0);
    }
  }
}

/// The weighted sum with care: a value that is not finite reaches only the lanes that see its key.
/// The finite part goes through the same product as ever.
template <class T>
ATTN_NOINLINE void weighted_sum_with_care(const query_block<T>& block, const score_tile<T>& s,
                                          care with) {
  const block_memory<T>& at = block.at;
  const key_memory<T>& memory = block.p.memory;
  const index value_depth = block.p.value_depth;
  copy_finite(memory, s.place.key, s.place.keys, value_depth, with, at.finite, value_depth);
  block.stages.products.weighted_sum(strided<const T>{at.finite, value_depth, 1}, s.scores, s.lanes,
                                     s.place.keys, 0, value_depth, at.factor, at.second);
  for (std::int32_t j = 0; j < s.place.keys; ++j) {
    const strided<const T> value = memory.value_at(s.place.key + j);
    for (index c = 0; c < value_depth; ++c) {
      const T x = *value.at(0, c);
      if (x - x == T(0)) continue;
      for (index w = 0; w < s.lanes; ++w) {
        if (!block.rules.visible(block.rules.mask, s.at(w, j))) continue;
        at.second[c * s.lanes + w] += s.scores[j * s.lanes + w] * x;
      }
    }
  }
}

/// out = out · factor + Σ_j weights_j · value_j, over the parts of the tile and the pieces of
/// memory that these lie in. What a lane has so far is multiplied but once. `first`: it has
/// nothing.
template <class T>
ATTN_INLINE void weighted_sum_of(const query_block<T>& block, const score_tile<T>& s,
                                 const tile_parts<T>& parts, bool first) {
  const block_memory<T>& at = block.at;
  const key_memory<T>& memory = block.p.memory;
  const index value_depth = block.p.value_depth;
  // Rows that lie far apart share few sets of the first cache: what is asked for early would be
  // gone again, and with it what the next columns read of the same lines.
  const index row_bytes = std::abs(memory.value.row_stride) * index{sizeof(T)};
  const index ahead = row_bytes <= widest_tile_ahead ? keys_a_tile : 8;
  for (const tile_part& part : parts) {
    const index lane = part.vector * vec<T>::lanes;
    for (index j = part.keys.begin; j < part.keys.end;) {
      const index keys = memory.together(s.place.key + j, part.keys.end - j);
      block.stages.products_for(part).weighted_sum(
          memory.value_at(s.place.key + j), at.scores + j * s.lanes + lane, s.lanes, keys, ahead,
          value_depth, first ? nullptr : at.factor + lane, at.out + lane);
      first = false;
      fill(at.factor + lane, part.vectors * vec<T>::lanes, T(1));
      j += keys;
    }
  }
}

/// Whether weights may be so many that it pays to have small ones flushed. One answer for a call,
/// so that a row has the same bits in whatever block it is.
template <class T>
bool has_many_keys(const problem<T>& p) {
  return p.shape.keys > 32;
}

template <class T>
soon_needed<T> soon_needed_by(const query_block<T>& block) {
  const problem<T>& p = block.p;
  soon_needed<T> soon;
  const strided<T> out = p.out.from(block.first, 0);
  soon.out = {{out.data, out.row_stride, out.col_stride}, block.rows, p.value_depth};
  const index next = block.first + block.rows;
  if (next < p.shape.queries) {
    const index rows = std::min<index>(block_rows<T>, p.shape.queries - next);
    soon.query = {p.query.from(next, 0), rows, p.depth};
  }
  return soon;
}

/// Everything but the division by the sums: into `out`, or with care into `second`.
template <class T>
void attend(const query_block<T>& block, care with) {
  const problem<T>& p = block.p;
  const block_memory<T>& at = block.at;
  const index lanes = block.stages.lanes;
  // What is empty needs no zeros where all of it comes from one product.
  T* const out = with == care::none ? at.out : at.second;
  bool empty = true;
  const auto clear = [&] {
    if (empty) fill(out, p.value_depth * lanes, T(0));
    empty = false;
  };
  fill(at.sum, lanes, T(0));
  fill(at.highest, lanes, -std::numeric_limits<T>::infinity());

  soon_needed<T> soon = soon_needed_by(block);
  tile t;
  coverage seen = coverage::none;
  for (index key = first_tile(p); find_tile(block, key, t, seen); key += keys_a_tile) {
    const score_tile<T> s{at.scores, lanes, t, block.row, p.shape.offset};
    const tile_parts<T> parts = parts_of(block, t, seen, with);
    score_tile_of(block, s, parts, seen, with);
    {
      [[maybe_unused]] const flush_small flush(has_many_keys(p));
      block.stages.absorb(at.scores, t.keys, at.tile_highest, bits<T>(block.unit),
                          softmax_state<T>{at.highest, at.sum, at.factor}, soon);
    }
    if (p.dropout) write_factors<factors_are::multiplied>(s, p.dropout, at.scores);
    if (with != care::none) {
      clear();
      weighted_sum_with_care(block, s, with);
    } else {
      if (parts.count() > 1) clear();
      weighted_sum_of(block, s, parts, empty);
      empty = false;
    }
  }
  clear();
}

/// Puts the sink among the sums, writes the logarithm of the sums where it is asked for, and leaves
/// in `factor` what exp(s - highest) is multiplied by to become a weight: 0 where all sums are.
template <class T>
void find_factors(const query_block<T>& block) {
  const problem<T>& p = block.p;
  const block_memory<T>& at = block.at;
  const index lanes = block.stages.lanes;
  constexpr T lowest = -std::numeric_limits<T>::infinity();
  if (p.sink == lowest && p.log_sum_exp.data == nullptr) {
    const vec<T> zero = broadcast(T(0));
    for (index w = 0; w < lanes; w += vec<T>::lanes) {
      const vec<T> sum = load(at.sum + w);
      store(at.factor + w, where_equal(sum, zero, zero, broadcast(T(1)) / sum));
    }
    return;
  }
  fill(at.factor, lanes, T(0));
  for (index w = 0; w < block.rows; ++w) {
    T m = at.highest[w] * block.unit;
    T l = at.sum[w];
    T shrink = l == T(0) ? T(0) : T(1);
    if (p.sink > lowest) {
      const T raised = m > p.sink ? m : p.sink;
      if (m > lowest) shrink *= std::exp(m - raised);
      l = l * shrink + std::exp(p.sink - raised);
      m = raised;
    }
    at.factor[w] = l == T(0) ? T(0) : shrink / l;
    if (p.log_sum_exp.data != nullptr) {
      *p.log_sum_exp.at(block.first + w, 0) =
          l == T(0) ? lowest : (m > lowest ? m : T(0)) + std::log(l);
    }
  }
}

/// What is finite in `out` is right: whatever hid or overflowed shows. The rest comes from
/// `second`. A row whose sum is 0 is 0. Returns whether all is finite now.
template <class T>
ATTN_NOINLINE bool divide_with_care(const query_block<T>& block, care with) {
  const block_memory<T>& at = block.at;
  const vec<T> zero = broadcast(T(0));
  bool finite = true;
  const index lanes = block.stages.lanes;
  for (index i = 0; i < block.p.value_depth * lanes; i += vec<T>::lanes) {
    const index w = i % lanes;
    const vec<T> x = load(at.out + i);
    const vec<T> careful =
        (load(at.second + i) * load(at.factor + w)) * broadcast(1 / shrinking<T>(with));
    const vec<T> best = where_equal(x - x, zero, x, careful);
    const vec<T> result = where_equal(load(at.sum + w), zero, zero, best);
    finite = finite && all_equal(result - result, zero);
    store(at.out + i, result);
  }
  return finite;
}

/// The weights of the rows, in a second pass over the scores, after `find_factors`.
template <class T>
ATTN_NOINLINE void write_weights(const query_block<T>& block, care with) {
  const problem<T>& p = block.p;
  const block_memory<T>& at = block.at;
  const index lanes = block.stages.lanes;
  const auto hide_until = [&](index from, index to) {
    for (index i = 0; i < block.rows; ++i) {
      for (index j = from; j < to; ++j) {
        *p.weights.at(block.first + i, j) = at.factor[i] - at.factor[i];  // NaN in a NaN row
      }
    }
  };
  tile t;
  coverage seen = coverage::none;
  index done = 0;
  for (index key = first_tile(p); find_tile(block, key, t, seen); key += keys_a_tile) {
    hide_until(done, t.key);
    score_tile_of(block, {at.scores, lanes, t, block.row, p.shape.offset},
                  parts_of(block, t, seen, with), seen, with);
    [[maybe_unused]] const flush_small flush(has_many_keys(p));
    weigh(at.scores, t.keys, lanes, bits<T>(block.unit),
          softmax_state<T>{at.highest, at.sum, at.factor});
    lanes_to_rows(at.scores, lanes, p.weights.from(block.first, t.key), block.rows, t.keys);
    done = t.key + t.keys;
  }
  hide_until(done, p.shape.keys);
}

template <class T>
bool is_power_of_2(T x) {
  int exponent = 0;
  return std::frexp(x, &exponent) == T(0.5);
}

/// Rows [first, first + rows) of the result, at most as many as there are lanes.
template <class T>
void forward_block(const problem<T>& p, const score_rules<T>& rules, index first, index rows,
                   const std::int32_t* row, const block_stages<T>& stages, T* memory) {
  const index lanes = stages.lanes;
  // A scale that rounds nothing may wait until the softmax, which then costs nothing: the way back
  // finds the same scores. Where the difference of two products overflows, the smaller has no
  // weight at such a scale either.
  const bool folded = !rules.changes && !rules.biased && p.scale <= T(1) && p.scale >= T(0x1p-64) &&
                      is_power_of_2(p.scale);
  const query_block<T> block{{p, rules, first, rows, row},
                             stages,
                             block_memory<T>::of(memory, p.depth, p.value_depth,
                                                 std::min(keys_a_tile, p.shape.keys), lanes),
                             folded ? T(1) : p.scale,
                             folded ? p.scale : T(1)};
  rows_to_lanes(p.query.from(first, 0), rows, p.depth, block.at.query, lanes);
  attend(block, care::none);
  find_factors(block);
  const strided<T> out = p.out.from(first, 0);
  const bool whole = out.col_stride == 1 && p.value_depth % vec<T>::lanes == 0;
  care with = care::none;
  if (!whole || !divide_into_rows(block.at.out, lanes, block.at.factor, out, rows, p.value_depth)) {
    bool finite = stages.divide(block.at.factor, p.value_depth, block.at.out);
    for (const care more : {care::exact, care::shrunk}) {
      if (finite) break;
      with = more;
      attend(block, with);
      find_factors(block);
      finite = divide_with_care(block, with);
    }
    lanes_to_rows(block.at.out, lanes, out, rows, p.value_depth);
  }
  if (p.weights.data != nullptr) write_weights(block, with);
}

/// Numbers that `forward` needs to work in, whatever the number of queries.
template <class T>
constexpr index most_memory(index depth, index value_depth, index keys) {
  return block_memory<T>::size(depth, value_depth, std::min(index{keys_a_tile}, keys),
                               block_rows<T>);
}

/// The same for the largest block of a problem.
template <class T>
index memory_size(const problem<T>& p) {
  const index rows = std::min(block_rows<T>, index{p.shape.queries});
  return block_memory<T>::size(p.depth, p.value_depth, std::min(keys_a_tile, p.shape.keys),
                               vectors_of<T>(rows) * vec<T>::lanes);
}

/// Rows [first, first + rows) of the result, at most block_rows<T>, in as few vectors as they fill.
template <class T>
void forward(const problem<T>& p, const score_rules<T>& rules, index first, index rows, T* memory) {
  with_vectors_of<T>(rows, [&](auto vectors) {
    const lane_rows<T, vectors()> lanes(first, rows);
    forward_block(p, rules, first, rows, lanes.row, stages_of<T, vectors()>, memory);
  });
}

#if defined(ATTN_ENGINE_INSTANCE)
ATTN_ENGINE_INSTANCE void forward<float>(const problem<float>& p, const score_rules<float>& rules,
                                         index first, index rows, float* memory);
ATTN_ENGINE_INSTANCE void forward<double>(const problem<double>& p,
                                          const score_rules<double>& rules, index first, index rows,
                                          double* memory);
#endif
