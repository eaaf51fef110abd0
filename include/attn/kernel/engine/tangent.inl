// The forward pass with a direction: what the result changes by where query, key and value change
// by tangents. One online pass carries the sums of both, with one rescaling:
//
//     S  = change(scale · Q Kᵀ) + bias             l = Σ e^(S-m)         O = Σ e^(S-m) v / l
//     S' = change' ∘ scale · (Q' Kᵀ + Q K'ᵀ)       μ = Σ e^(S-m) S' / l
//     O' = Σ e^(S-m) (S' v + v') / l - μ O         lse' = μ

/// Where a block keeps its numbers, all [something][lane].
template <class T>
struct tangent_memory {
  T* query;          // depth
  T* query_tangent;  // depth
  T* scores;         // keys_a_tile: scores, then exponentials
  T* tangents;       // keys_a_tile: of scores, then times the exponentials
  T* before;         // keys_a_tile: scores before they are changed
  T* mask;           // keys_a_tile
  T* out;            // value_depth
  T* out_tangent;    // value_depth: Σ e^(S-m) (S' v + v')
  T* highest;
  T* tile_highest;
  T* sum;
  T* factor;
  T* mean;  // Σ e^(S-m) S'
  T* ones;

  static constexpr index size(index depth, index value_depth, index keys, index lanes) {
    return (2 * depth + 4 * keys + 2 * value_depth + 6) * lanes;
  }
  static tangent_memory of(T* from, index depth, index value_depth, index keys, index lanes) {
    const auto next = [&](index rows) { return std::exchange(from, from + rows * lanes); };
    tangent_memory at{};
    for (T** queries : {&at.query, &at.query_tangent}) *queries = next(depth);
    for (T** tile : {&at.scores, &at.tangents, &at.before, &at.mask}) *tile = next(keys);
    for (T** values : {&at.out, &at.out_tangent}) *values = next(value_depth);
    for (T** row : {&at.highest, &at.tile_highest, &at.sum, &at.factor, &at.mean, &at.ones}) {
      *row = next(1);
    }
    return at;
  }
};

/// What the steps below share.
template <class T>
struct tangent_block {
  const tangent_problem<T>& d;
  const gradient_rules<T>& rules;
  tangent_memory<T> at;
  index rows;
  bool finite;  // queries and their tangents
};

/// S and S' of a tile, -inf and 0 where the mask hides.
template <class T, int Vectors>
void score_tangents(const tangent_block<T>& block, const score_tile<T>& s, bool masked) {
  const problem<T>& p = block.d.p;
  const tangent_memory<T>& at = block.at;
  const score_rules<T>& rules = block.rules.scores;
  const index keys = s.place.keys, numbers = keys * s.lanes;
  const strided<const T> key = p.memory.key_at(s.place.key);
  product<T, rows_at_once, Vectors, false>(key, keys, p.depth, at.query, s.lanes, at.scores,
                                           s.lanes);
  std::fill_n(at.tangents, numbers, T(0));
  if (block.d.query.data != nullptr) {
    product<T, rows_at_once, Vectors, true>(key, keys, p.depth, at.query_tangent, s.lanes,
                                            at.tangents, s.lanes);
  }
  if (block.d.key.data != nullptr) {
    product<T, rows_at_once, Vectors, true>(block.d.key.from(s.place.key, 0), keys, p.depth,
                                            at.query, s.lanes, at.tangents, s.lanes);
  }
  const vec<T> scale = broadcast(p.scale);
  for (index i = 0; i < numbers; i += vec<T>::lanes) {
    store(at.scores + i, load(at.scores + i) * scale);
    store(at.tangents + i, load(at.tangents + i) * scale);
  }
  if (rules.changes) {
    std::copy_n(at.scores, numbers, at.before);
    rules.change_scores(rules, s);
    block.rules.change_gradient(rules, {at.before, s.lanes, s.place, s.row, s.offset}, block.rows,
                                at.tangents, nullptr);
  }
  if (masked) {
    rules.write_mask(rules, {at.mask, s.lanes, s.place, s.row, s.offset});
    const vec<T> lowest = broadcast(-std::numeric_limits<T>::infinity());
    const vec<T> zero = broadcast(T(0));
    for (index i = 0; i < numbers; i += vec<T>::lanes) {
      const vec<T> mask = load(at.mask + i);
      const vec<T> score = load(at.scores + i);
      store(at.scores + i, where_equal(mask, lowest, lowest, rules.biased ? score + mask : score));
      store(at.tangents + i, where_equal(mask, lowest, zero, load(at.tangents + i)));
    }
  }
}

/// mean = mean · factor + Σ e S';  S' = e S'. Where e is 0, so is the product, whatever S' is: a
/// score of -inf may have a tangent that is no number.
template <class T, int Vectors>
ATTN_NOINLINE void weigh_tangents(const tangent_memory<T>& at, index keys) {
  constexpr int lanes = vec<T>::lanes;
  for (int v = 0; v < Vectors; ++v) {
    vec<T> sum = load(at.mean + v * lanes) * load(at.factor + v * lanes);
    for (index i = v * lanes; i < keys * width<T, Vectors>; i += width<T, Vectors>) {
      const vec<T> weight = load(at.scores + i);
      const vec<T> zero = broadcast(T(0));
      const vec<T> weighted = where_equal(weight, zero, zero, weight * load(at.tangents + i));
      store(at.tangents + i, weighted);
      sum = sum + weighted;
    }
    store(at.mean + v * lanes, sum);
  }
}

/// The sums over values pair by pair, where something that is not finite may be hidden.
template <class T>
ATTN_NOINLINE void sum_tangents_with_care(const tangent_block<T>& block, const score_tile<T>& s) {
  const problem<T>& p = block.d.p;
  const tangent_memory<T>& at = block.at;
  for (index c = 0; c < p.value_depth; ++c) {
    for (index w = 0; w < s.lanes; ++w) {
      T& out = at.out[c * s.lanes + w];
      T& tangent = at.out_tangent[c * s.lanes + w];
      out *= at.factor[w];
      tangent *= at.factor[w];
      for (index j = 0; j < s.place.keys; ++j) {
        const index i = j * s.lanes + w;
        if (at.mask[i] == -std::numeric_limits<T>::infinity()) continue;
        const T value = *p.memory.value_at(s.place.key + j).at(0, c);
        out += at.scores[i] * value;
        tangent += at.tangents[i] * value;
        if (block.d.value.data != nullptr) {
          tangent += at.scores[i] * *block.d.value.at(s.place.key + j, c);
        }
      }
    }
  }
}

template <class T, int Vectors>
void sum_tangents(const tangent_block<T>& block, const score_tile<T>& s) {
  const problem<T>& p = block.d.p;
  const tangent_memory<T>& at = block.at;
  const index keys = s.place.keys;
  const strided<const T> value = p.memory.value_at(s.place.key);
  weighted_sum<T, rows_at_once, Vectors>(value, at.scores, s.lanes, keys, 0, p.value_depth,
                                         at.factor, at.out);
  weighted_sum<T, rows_at_once, Vectors>(value, at.tangents, s.lanes, keys, 0, p.value_depth,
                                         at.factor, at.out_tangent);
  if (block.d.value.data != nullptr) {
    weighted_sum<T, rows_at_once, Vectors>(block.d.value.from(s.place.key, 0), at.scores, s.lanes,
                                           keys, 0, p.value_depth, at.ones, at.out_tangent);
  }
}

/// score, change, mask, softmax and weighted sum of a tile, each with its tangent.
template <class T, int Vectors>
void tangent_tile(const tangent_block<T>& block, const score_tile<T>& s, coverage seen) {
  const problem<T>& p = block.d.p;
  const tangent_memory<T>& at = block.at;
  const tile& t = s.place;
  const bool masked = block.rules.scores.biased || seen == coverage::some;
  const auto finite = [&](const strided<const T>& of, index cols) {
    return of.data == nullptr || all_finite(of.from(t.key, 0), t.keys, cols);
  };
  const bool careful =
      masked && !(block.finite && finite(p.memory.key, p.depth) && finite(block.d.key, p.depth) &&
                  finite(p.memory.value, p.value_depth) && finite(block.d.value, p.value_depth));
  score_tangents<T, Vectors>(block, s, masked);
  find_highest<T, Vectors>(at.scores, t.keys, at.tile_highest);
  {
    [[maybe_unused]] const flush_small flush(has_many_keys(p));
    soon_needed<T> nothing;
    absorb<T, Vectors>(at.scores, t.keys, at.tile_highest, bits(T(1)),
                       softmax_state<T>{at.highest, at.sum, at.factor}, nothing);
  }
  weigh_tangents<T, Vectors>(at, t.keys);
  if (p.dropout) {
    write_factors<factors_are::multiplied>(s, p.dropout, at.scores);
    write_factors<factors_are::multiplied>(s, p.dropout, at.tangents);
  }
  if (careful) {
    sum_tangents_with_care(block, s);
  } else {
    sum_tangents<T, Vectors>(block, s);
  }
}

/// Divides by the sums, and takes μ O away. A row that saw nothing is 0 in both.
template <class T>
void divide_tangents(const tangent_block<T>& block, index lanes) {
  const tangent_memory<T>& at = block.at;
  const vec<T> zero = broadcast(T(0));
  for (index w = 0; w < lanes; w += vec<T>::lanes) {
    const vec<T> factor = load(at.factor + w);
    const vec<T> mean = where_equal(factor, zero, zero, load(at.mean + w) * factor);
    store(at.mean + w, mean);
    for (index i = w; i < block.d.p.value_depth * lanes; i += lanes) {
      const vec<T> out = load(at.out + i) * factor;
      const vec<T> tangent = load(at.out_tangent + i) * factor - mean * out;
      store(at.out + i, where_equal(factor, zero, zero, out));
      store(at.out_tangent + i, where_equal(factor, zero, zero, tangent));
    }
  }
}

template <class T, int Vectors>
void tangent_rows(const tangent_problem<T>& d, const gradient_rules<T>& rules, index first,
                  index rows, T* memory) {
  constexpr index lanes = width<T, Vectors>;
  const problem<T>& p = d.p;
  const lane_rows<T, Vectors> of_lanes(first, rows);
  const std::int32_t* const row = of_lanes.row;
  const auto at = tangent_memory<T>::of(memory, p.depth, p.value_depth,
                                        std::min(keys_a_tile, p.shape.keys), lanes);
  const strided<const T> query = p.query.from(first, 0);
  const strided<const T> query_tangent = d.query.from(first, 0);
  const bool finite = all_finite(query, rows, p.depth) &&
                      (d.query.data == nullptr || all_finite(query_tangent, rows, p.depth));
  const tangent_block<T> block{d, rules, at, rows, finite};
  rows_to_lanes(query, rows, p.depth, at.query, lanes);
  if (d.query.data != nullptr) {
    rows_to_lanes(query_tangent, rows, p.depth, at.query_tangent, lanes);
  }
  std::fill_n(at.out, 2 * p.value_depth * lanes, T(0));
  std::fill_n(at.highest, lanes, -std::numeric_limits<T>::infinity());
  std::fill_n(at.sum, lanes, T(0));
  std::fill_n(at.mean, lanes, T(0));
  std::fill_n(at.ones, lanes, T(1));

  block_memory<T> sums{};
  sums.highest = at.highest;
  sums.sum = at.sum;
  sums.factor = at.factor;
  const query_block<T> walk{
      {p, rules.scores, first, rows, row}, stages_of<T, Vectors>, sums, T(1), T(1)};
  tile t;
  coverage seen = coverage::none;
  for (index key = first_tile(p); find_tile(walk, key, t, seen); key += keys_a_tile) {
    tangent_tile<T, Vectors>(block, {at.scores, lanes, t, row, p.shape.offset}, seen);
  }
  find_factors(walk);
  divide_tangents(block, lanes);
  lanes_to_rows(at.out, lanes, p.out.from(first, 0), rows, p.value_depth);
  lanes_to_rows(at.out_tangent, lanes, d.out.from(first, 0), rows, p.value_depth);
  lanes_to_rows(at.mean, lanes, d.log_sum_exp.from(first, 0), rows, 1);
}

/// Rows [first, first + rows) of the result and its tangent, a block of `row_blocks`.
template <class T>
void tangent(const tangent_problem<T>& d, const gradient_rules<T>& rules, index first, index rows,
             T* memory) {
  with_vectors_of<T>(
      rows, [&](auto vectors) { tangent_rows<T, vectors()>(d, rules, first, rows, memory); });
}

/// Numbers that `tangent` needs to work in, whatever the lengths beyond a block and a tile.
template <class T>
index tangent_memory_size(const problem<T>& p) {
  return tangent_memory<T>::size(p.depth, p.value_depth, std::min(keys_a_tile, p.shape.keys),
                                 block_rows<T>);
}

#if defined(ATTN_ENGINE_INSTANCE)
ATTN_ENGINE_INSTANCE void tangent<float>(const tangent_problem<float>& d,
                                         const gradient_rules<float>& rules, index first,
                                         index rows, float* memory);
ATTN_ENGINE_INSTANCE void tangent<double>(const tangent_problem<double>& d,
                                          const gradient_rules<double>& rules, index first,
                                          index rows, double* memory);
#endif
