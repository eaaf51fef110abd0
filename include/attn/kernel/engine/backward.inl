// The backward pass of one block of queries over a tile of keys at a time (Dao, Fu, Ermon, Rudra,
// Ré: FlashAttention, 2022, algorithm 4): weights anew from the log-sum-exp, then five products.
//
//     S  = change(scale · Q Kᵀ) + bias     P  = exp(S - lse)             dV += (keep ∘ P)ᵀ dO
//     dP = dO Vᵀ                           dS = P ∘ (keep ∘ dP - δ)      dK += scale · dSᵀ Q
//     δ  = <dO, O> - dlse                  dS = dS ∘ change'             dQ += scale · dS K

/// Turns scores into weights and their gradients into those of the scores. What is hidden gets 0
/// for both, by selection. `factor` is what scores are still multiplied by: rounded as on the way
/// forward, for where scores are large, less than their rounding decides what a weight is. Where
/// they are not (few queries were summed in another order there), no weight passes 1.
template <class T, int Vectors, bool Masked, bool Drops>
ATTN_NOINLINE void softmax_gradient(const gradient_memory<T>& at, index keys, T factor, bool adds) {
  constexpr int lanes = vec<T>::lanes;
  const vec<T> unit = broadcast(factor);
  const vec<T> bits_below_one = broadcast(-bits(T(1)));
  const vec<T> zero = broadcast(T(0));
  const vec<T> lowest = broadcast(-std::numeric_limits<T>::infinity());
  for (int v = 0; v < Vectors; ++v) {
    const vec<T> base = load(at.base + v * lanes);
    const vec<T> delta = load(at.delta + v * lanes);
    for (index i = v * lanes; i < keys * width<T, Vectors>; i += width<T, Vectors>) {
      const vec<T> bias = Masked && adds ? load(at.mask + i) : zero;
      const vec<T> below = larger(zero, base - multiply_add(load(at.scores + i), unit, bias));
      vec<T> weight = exp2(below * bits_below_one);
      vec<T> gradient = load(at.gradient + i);
      if constexpr (Drops) gradient = gradient * load(at.kept + i);
      gradient = (gradient - delta) * weight;
      if constexpr (Drops) weight = weight * load(at.kept + i);
      if constexpr (Masked) {
        const vec<T> mask = load(at.mask + i);
        weight = where_equal(mask, lowest, zero, weight);
        gradient = where_equal(mask, lowest, zero, gradient);
      }
      store(at.scores + i, weight);
      store(at.gradient + i, gradient);
    }
  }
}

/// Adds gradients of scores to those of a bias: to(row, key) += gradient[key][lane].
template <class T>
ATTN_NOINLINE void add_bias_gradient(const gradient_block<T>& block, const tile& t) {
  constexpr index side = vec<T>::lanes;
  const strided<T> to = block.g.bias.from(t.row, t.key);
  const T* gradient = block.at.gradient;
  if (to.row_stride == 0) {  // one row for all queries
    for (index j = 0; j < t.keys; ++j, gradient += block.lanes) {
      vec<T> sums = broadcast(T(0));
      index r = 0;
      for (; r + side <= block.rows; r += side) sums = sums + load(gradient + r);
      alignas(64) T parts[side];
      store(parts, sums);
      T sum = 0;
      for (const T part : parts) sum += part;
      for (; r < block.rows; ++r) sum += gradient[r];
      *to.at(0, j) += sum;
    }
    return;
  }
  index done = 0;
  if (to.col_stride == 1) {
    alignas(64) T square[side * side];
    for (; done + side <= block.rows; done += side) {
      index j = 0;
      for (; j + side <= t.keys; j += side) {
        transpose(gradient + j * block.lanes + done, block.lanes, square, side);
        // All are read before one is written: rows may lie a multiple of 4 KiB apart, and a
        // processor takes a write so far from a read for one that may overlap it.
        for (index r = 0; r < side; ++r) {
          store(square + r * side, load(square + r * side) + load(to.at(done + r, j)));
        }
        for (index r = 0; r < side; ++r) store(to.at(done + r, j), load(square + r * side));
      }
      for (; j < t.keys; ++j) {
        for (index r = done; r < done + side; ++r) *to.at(r, j) += gradient[j * block.lanes + r];
      }
    }
  }
  for (index j = 0; j < t.keys; ++j) {
    for (index r = done; r < block.rows; ++r) *to.at(r, j) += gradient[j * block.lanes + r];
  }
}

/// The product for the vectors of a part of a tile: all of a block's, or one less.
template <class T, int Vectors, bool Adds>
auto product_for(const tile_part& part) {
  constexpr int fewer = Vectors > fewest_vectors ? Vectors - 1 : Vectors;
  return part.vectors == Vectors ? product<T, rows_at_once, Vectors, Adds>
                                 : product<T, rows_at_once, fewer, Adds>;
}

/// to[j][lane] = Σ_e rows(j, e) · from[e][lane] for keys [j, j + keys) of a part of a tile, and 0
/// in a vector that it leaves out; row 0 is that of the tile's first key.
template <class T, int Vectors>
void multiply_keys(const strided<const T>& rows, const tile_part& part, index j, index keys,
                   index depth, const T* from, T* to) {
  constexpr index lanes = width<T, Vectors>;
  const index lane = part.vector * vec<T>::lanes;
  product_for<T, Vectors, false>(part)(rows.from(j, 0), keys, depth, from + lane, lanes,
                                       to + j * lanes + lane, lanes);
  if (part.vectors == Vectors) return;
  const index left_out = part.vector == 0 ? lanes - vec<T>::lanes : 0;
  for (index i = j; i < j + keys; ++i) fill(to + i * lanes + left_out, vec<T>::lanes, T(0));
}

/// dP = V dOᵀ for a tile. Meanwhile asks for the lines of memory that gradients of a bias will be
/// added to: they lie in as many places as there are rows.
template <class T, int Vectors>
void weight_gradients(const gradient_block<T>& block, const tile& t, const tile_parts<T>& parts) {
  const gradient_problem<T>& g = block.g;
  const strided<const T> value = g.p.memory.value_at(t.key);
  const index step = g.bias.data == nullptr ? t.keys : rows_at_once;
  constexpr index line = 64 / sizeof(T);
  const index rows_a_step = (block.rows * step + t.keys - 1) / t.keys;
  index row = 0;
  for (const tile_part& part : parts) {
    for (index j = part.keys.begin; j < part.keys.end; j += step) {
      multiply_keys<T, Vectors>(value, part, j, std::min<index>(step, part.keys.end - j),
                                g.p.value_depth, block.at.out_gradient, block.at.gradient);
      if (g.bias.data == nullptr) continue;
      for (const index end = std::min(row + rows_a_step, block.rows); row < end; ++row) {
        for (index key = 0; key < t.keys; key += line) {
          prefetch(g.bias.at(t.row + row, t.key), key * g.bias.col_stride);
        }
      }
    }
  }
}

/// to(j, ·) += Σ_i from[j][i] · rows[i][·] for the keys and queries of a part of a tile.
template <class T>
void add_to_keys(const gradient_block<T>& block, const T* from, const tile& t,
                 const tile_part& part, const T* rows, index cols, strided<T> to) {
  const index wide = whole_vectors<T>(cols);
  const index lane = part.vector * vec<T>::lanes;
  const index queries = std::min<index>(part.vectors * vec<T>::lanes, block.rows - lane);
  const index keys = part.keys.end - part.keys.begin;
  const strided<const T> keys_by_rows{from + part.keys.begin * block.lanes + lane, block.lanes, 1};
  const strided<T> sums = to.from(t.key + part.keys.begin, 0);
  rows += lane * wide;
  if (to.col_stride == 1 && cols == wide) {
    add_product(keys_by_rows, keys, queries, rows, wide, sums.data, to.row_stride);
    return;
  }
  std::fill_n(block.at.sums, keys * wide, T(0));
  add_product(keys_by_rows, keys, queries, rows, wide, block.at.sums, wide);
  for (index j = 0; j < keys; ++j) {
    for (index c = 0; c < cols; ++c) *sums.at(j, c) += block.at.sums[j * wide + c];
  }
}

/// The sums over a tile that are wanted.
template <class T, int Vectors>
void add_products(const gradient_block<T>& block, const tile& t, const tile_parts<T>& parts) {
  const gradient_problem<T>& g = block.g;
  const problem<T>& p = g.p;
  const gradient_memory<T>& at = block.at;
  for (const tile_part& part : parts) {
    if (g.value.data != nullptr) {
      add_to_keys(block, at.scores, t, part, at.out_gradient_rows, p.value_depth, g.value);
    }
    if (g.key.data != nullptr) {
      add_to_keys(block, at.gradient, t, part, at.query_rows, p.depth, g.key);
    }
    if (g.query.data != nullptr) {
      const index first = part.keys.begin, lane = part.vector * vec<T>::lanes;
      const strided<const T> key = p.memory.key_at(t.key + first);
      product_for<T, Vectors, true>(part)({key.data, key.col_stride, key.row_stride}, p.depth,
                                          part.keys.end - first,
                                          at.gradient + first * block.lanes + lane, block.lanes,
                                          at.query_gradient + lane, block.lanes);
    }
  }
}

/// The same pair by pair, where something that is not finite may be hidden: only pairs that see
/// each other reach one another's gradients.
template <class T>
ATTN_NOINLINE void add_products_with_care(const gradient_block<T>& block, const tile& t,
                                          const T* hidden) {
  const gradient_problem<T>& g = block.g;
  const problem<T>& p = g.p;
  const gradient_memory<T>& at = block.at;
  const index wide = whole_vectors<T>(p.depth), value_wide = whole_vectors<T>(p.value_depth);
  for (index j = 0; j < t.keys; ++j) {
    const strided<const T> key = p.memory.key_at(t.key + j);
    for (index w = 0; w < block.rows; ++w) {
      const index i = j * block.lanes + w;
      if (hidden != nullptr && hidden[i] == -std::numeric_limits<T>::infinity()) continue;
      if (at.base[w] == std::numeric_limits<T>::infinity()) continue;
      for (index c = 0; g.value.data != nullptr && c < p.value_depth; ++c) {
        *g.value.at(t.key + j, c) += at.scores[i] * at.out_gradient_rows[w * value_wide + c];
      }
      for (index c = 0; g.key.data != nullptr && c < p.depth; ++c) {
        *g.key.at(t.key + j, c) += at.gradient[i] * at.query_rows[w * wide + c];
      }
      for (index c = 0; g.query.data != nullptr && c < p.depth; ++c) {
        at.query_gradient[c * block.lanes + w] += at.gradient[i] * *key.at(0, c);
      }
    }
  }
}

/// Weights of rows that pass nothing back, and their gradients, where NaN or inf in a key, or a
/// score change, made them NaN.
template <class T>
void clear_empty_rows(const gradient_block<T>& block, index keys) {
  for (index w = 0; w < block.lanes; ++w) {
    if (block.at.base[w] != std::numeric_limits<T>::infinity()) continue;
    for (index j = 0; j < keys; ++j) {
      block.at.scores[j * block.lanes + w] = block.at.gradient[j * block.lanes + w] = T(0);
    }
  }
}

/// score, change, mask, softmax, and back, for a tile.
template <class T, int Vectors>
void backward_tile(const gradient_block<T>& block, const score_tile<T>& s, coverage seen) {
  const gradient_problem<T>& g = block.g;
  const problem<T>& p = g.p;
  const gradient_memory<T>& at = block.at;
  const score_rules<T>& scores = block.rules.scores;
  const tile& t = s.place;
  const bool masked = scores.biased || seen == coverage::some;
  const strided<const T> key = p.memory.key_at(t.key);
  const strided<const T> value = p.memory.value_at(t.key);
  const bool careful =
      (masked || block.has_empty) && !(block.finite && all_finite(key, t.keys, p.depth) &&
                                       all_finite(value, t.keys, p.value_depth));
  const bool cut = seen == coverage::some && !careful && !scores.changes;
  const tile_parts<T> parts = parts_of(t, Vectors, cut, scores);
  T factor = p.scale;
  for (const tile_part& part : parts) {
    multiply_keys<T, Vectors>(key, part, part.keys.begin, part.keys.end - part.keys.begin, p.depth,
                              at.query, at.scores);
  }
  weight_gradients<T, Vectors>(block, t, parts);
  if (scores.changes) {
    const vec<T> unit = broadcast(factor);
    for (index i = 0; i < t.keys * s.lanes; i += vec<T>::lanes) {
      const vec<T> x = load(at.scores + i) * unit;
      store(at.scores + i, x);
      store(at.before + i, x);
    }
    scores.change_scores(scores, s);
    factor = T(1);
  }
  if (masked) scores.write_mask(scores, {at.mask, s.lanes, t, s.row, s.offset});
  {
    [[maybe_unused]] const flush_small flush(has_many_keys(p));
    if (p.dropout) {
      write_factors<factors_are::written>(s, p.dropout, at.kept);
      if (masked) {
        softmax_gradient<T, Vectors, true, true>(at, t.keys, factor, scores.biased);
      } else {
        softmax_gradient<T, Vectors, false, true>(at, t.keys, factor, false);
      }
    } else if (masked) {
      softmax_gradient<T, Vectors, true, false>(at, t.keys, factor, scores.biased);
    } else {
      softmax_gradient<T, Vectors, false, false>(at, t.keys, factor, false);
    }
  }
  if (block.has_empty && (careful || scores.changes || scores.biased)) {
    clear_empty_rows(block, t.keys);
  }
  if (g.bias.data != nullptr) add_bias_gradient(block, t);
  if (scores.changes) {
    const score_tile<T> before{at.before, s.lanes, t, s.row, s.offset};
    block.rules.change_gradient(scores, before, block.rows, at.gradient, g.parameters);
  }
  if (careful) {
    add_products_with_care(block, t, masked ? at.mask : nullptr);
  } else {
    add_products<T, Vectors>(block, t, parts);
  }
}

template <class T, int Vectors>
void backward_block(const gradient_problem<T>& g, const gradient_rules<T>& rules, index first,
                    index rows, index begin, index end, T* memory) {
  constexpr index lanes = width<T, Vectors>;
  const lane_rows<T, Vectors> of_lanes(first, rows);
  const std::int32_t* const row = of_lanes.row;
  problem<T> part = g.p;  // the walk goes over these keys alone
  part.first_key = begin;
  part.shape.keys = static_cast<std::int32_t>(end);
  const query_rows<T> walk{part, rules.scores, first, rows, row};
  tile t;
  coverage seen = coverage::none;
  index key = first_tile(part);
  if (!find_tile(walk, key, t, seen)) return;

  gradient_block<T> block{g,
                          rules,
                          gradient_memory<T>::of(memory, g.p.depth, g.p.value_depth,
                                                 std::min(keys_a_tile, g.p.shape.keys), lanes),
                          first,
                          rows,
                          lanes};
  gather_rows(block);
  std::fill_n(block.at.query_gradient, g.p.depth * lanes, T(0));
  do {
    const score_tile<T> s{block.at.scores, lanes, t, row, g.p.shape.offset};
    backward_tile<T, Vectors>(block, s, seen);
    key += keys_a_tile;
  } while (find_tile(walk, key, t, seen));

  if (g.query.data == nullptr) return;
  const vec<T> scale = broadcast(g.p.scale);
  for (index i = 0; i < g.p.depth * lanes; i += vec<T>::lanes) {
    store(block.at.query_gradient + i, load(block.at.query_gradient + i) * scale);
  }
  T* const by_rows = block.at.query_rows;
  lanes_to_rows(block.at.query_gradient, lanes, strided<T>{by_rows, g.p.depth, 1}, rows, g.p.depth);
  add_rows(by_rows, rows, g.p.depth, g.query.from(first, 0));
}

/// Numbers that `backward` needs to work in, whatever the lengths beyond a block and a tile.
template <class T>
index gradient_memory_size(const gradient_problem<T>& g) {
  return gradient_memory<T>::size(g.p.depth, g.p.value_depth, std::min(keys_a_tile, g.p.shape.keys),
                                  block_rows<T>);
}

template <class T>
void backward(const gradient_problem<T>& g, const gradient_rules<T>& rules, index first, index rows,
              index begin, index end, T* memory) {
  with_vectors_of<T>(rows, [&](auto vectors) {
    backward_block<T, vectors()>(g, rules, first, rows, begin, end, memory);
  });
}

#if defined(ATTN_ENGINE_INSTANCE)
ATTN_ENGINE_INSTANCE void backward<float>(const gradient_problem<float>& g,
                                          const gradient_rules<float>& rules, index first,
                                          index rows, index begin, index end, float* memory);
ATTN_ENGINE_INSTANCE void backward<double>(const gradient_problem<double>& g,
                                           const gradient_rules<double>& rules, index first,
                                           index rows, index begin, index end, double* memory);
#endif
