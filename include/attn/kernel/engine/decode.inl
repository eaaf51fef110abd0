// Few queries against many keys: lanes over features, so that every key and value is read as it
// lies in memory, once for all query heads that share it. The keys are cut into chunks by their
// number alone; `merge_chunks` puts together what these give.

/// Keys whose rows stay in the first cache while one query after the other goes over them.
inline constexpr index keys_a_strip = 16;

/// How far ahead of the strip in work memory is asked for.
inline constexpr index keys_ahead = keys_a_strip;
/// How far ahead streams are woken: 11 instead of 12 ns a key of 1 KiB on a Xeon (Emerald Rapids).
inline constexpr index keys_woken = 2 * keys_a_strip;
static_assert(keys_a_chunk % keys_a_tile == 0);

/// Where a group of rows keeps its numbers. Row g · queries + i is query i of the group's head g.
template <class T>
struct decode_memory {
  T* query;    // rows x depth
  T* scores;   // rows x keys_a_tile
  T* out;      // rows x value_depth, not yet divided by the sums
  T* sum;      // rows x lanes: Σ exp(s - highest) over the keys of each lane
  T* finite;   // keys_a_strip x value_depth: values without what is not finite
  T* highest;  // rows

  static constexpr index size(index depth, index value_depth, index rows) {
    return rows * (whole_vectors<T>(depth) + keys_a_tile + whole_vectors<T>(value_depth) +
                   vec<T>::lanes + 1) +
           keys_a_strip * whole_vectors<T>(value_depth);
  }
  static decode_memory of(T* from, index depth, index value_depth, index rows) {
    decode_memory at{};
    at.query = from;
    at.scores = at.query + rows * whole_vectors<T>(depth);
    at.out = at.scores + rows * keys_a_tile;
    at.sum = at.out + rows * whole_vectors<T>(value_depth);
    at.finite = at.sum + rows * vec<T>::lanes;
    at.highest = at.finite + keys_a_strip * whole_vectors<T>(value_depth);
    return at;
  }
};

/// Rows that share what is loaded of keys and values.
template <class T>
inline constexpr int rows_together = std::min(4, vec<T>::lanes);

/// The scores of a strip of keys: as many rows together as there are registers for, then the rest.
template <class T, int Rows>
void score_strip(const T* query, strided<const T> key, rows_to_come<T> next, index keys,
                 const problem<T>& p, index rows, T* scores) {
  constexpr int columns = vec<T>::lanes / Rows;
  const index query_row = whole_vectors<T>(p.depth);
  index r = 0;
  for (; r + Rows <= rows; r += Rows) {
    for (index i = 0; i < keys; i += columns) {
      score_pairs<T, Rows>(query + r * query_row, key.from(i, 0), next.after_rows(i), keys - i,
                           p.depth, p.scale, scores + r * keys_a_tile + i);
    }
  }
  if constexpr (Rows > 1) {
    if (r < rows) {
      score_strip<T, Rows / 2>(query + r * query_row, key, next, keys, p, rows - r,
                               scores + r * keys_a_tile);
    }
  }
}

/// The weighted sum over a strip of keys.
template <class T, int Rows>
void add_strip(const T* weights, strided<const T> value, rows_to_come<T> next, index keys,
               index value_depth, index rows, T* out, index out_row) {
  constexpr int vectors = 2 * rows_at_once / Rows;
  index r = 0;
  for (; r + Rows <= rows; r += Rows) {
    add_all_values<T, Rows, vectors>(weights + r * keys_a_tile, value, next, keys, value_depth,
                                     out + r * out_row, out_row);
  }
  if constexpr (Rows > 1) {
    if (r < rows) {
      add_strip<T, Rows / 2>(weights + r * keys_a_tile, value, next, keys, value_depth, rows - r,
                             out + r * out_row, out_row);
    }
  }
}

/// Asks for the first lines of each page of a strip, from which processors go on by themselves:
/// they follow a stream that they have seen two or three lines of, but not beyond a page of 4 KiB.
template <class T>
ATTN_INLINE void wake(const rows_to_come<T>& rows) {
  constexpr index a_line = 64 / sizeof(T);
  constexpr index a_page = 4096 / sizeof(T);
  constexpr index lines = 3;
  if (!rows.in_order) return;  // no stream
  for (index at = 0; at < keys_a_strip * rows.row_stride; at += a_page) {
    for (index line = 0; line < lines; ++line) prefetch<T>(rows.at, at + line * a_line);
  }
}

/// Rows that are read `ahead` keys after key j of a tile, or value j, in the order of the work: its
/// keys, its values, keys of the next one; at the end what is at hand anyhow.
template <class T>
rows_to_come<T> after_key(const query_group<T>& group, const tile& t, index j, index ahead) {
  const problem<T>& p = group.p;
  const index n = j + ahead;
  if (n < t.keys) return {p.memory.key_at(t.key + n), p.depth, group.into_first_cache};
  return {p.memory.value_at(t.key + (n - t.keys) % t.keys), p.value_depth, group.into_first_cache};
}
template <class T>
rows_to_come<T> after_value(const query_group<T>& group, const tile& t, index j, index ahead) {
  const problem<T>& p = group.p;
  const index n = t.key + j + ahead;
  if (n < t.key + t.keys) return {p.memory.value_at(n), p.value_depth, group.into_first_cache};
  if (n < group.end) return {p.memory.key_at(n), p.depth, group.into_first_cache};
  return {p.memory.value_at(t.key + j), p.value_depth, group.into_first_cache};
}

/// The score tile of all rows: score and scale, a strip of keys after the other.
template <class T>
void score_strips(const query_group<T>& group, const decode_memory<T>& at, const tile& t) {
  const problem<T>& p = group.p;
  const index rows = group.rows();
  for (index j = 0; j < t.keys;) {
    const index keys = p.memory.together(t.key + j, std::min<index>(keys_a_strip, t.keys - j));
    wake(after_key(group, t, j, keys_woken));
    score_strip<T, rows_together<T>>(at.query, p.memory.key_at(t.key + j),
                                     after_key(group, t, j, keys_ahead), keys, p, rows,
                                     at.scores + j);
    j += keys;
  }
}

/// The weighted sum of all rows.
template <class T>
void add_strips(const query_group<T>& group, const decode_memory<T>& at, const tile& t) {
  const problem<T>& p = group.p;
  const index rows = group.rows();
  const index out_row = whole_vectors<T>(p.value_depth);
  for (index j = 0; j < t.keys;) {
    const index keys = p.memory.together(t.key + j, std::min<index>(keys_a_strip, t.keys - j));
    wake(after_value(group, t, j, keys_woken));
    add_strip<T, rows_together<T>>(at.scores + j, p.memory.value_at(t.key + j),
                                   after_value(group, t, j, keys_ahead), keys, p.value_depth, rows,
                                   at.out, out_row);
    j += keys;
  }
}

/// The weighted sum with care, as in `weighted_sum_with_care`.
template <class T>
ATTN_NOINLINE void add_strips_with_care(const query_group<T>& group, const score_rules<T>& rules,
                                        const decode_memory<T>& at, const tile& t, care with) {
  const problem<T>& p = group.p;
  const index queries = p.shape.queries;
  const index out_row = whole_vectors<T>(p.value_depth);
  for (index first = 0; first < t.keys; first += keys_a_strip) {
    const index keys = std::min<index>(keys_a_strip, t.keys - first);
    copy_finite(p.memory, t.key + first, keys, p.value_depth, with, at.finite, out_row);
    add_strip<T, rows_together<T>>(at.scores + first, strided<const T>{at.finite, out_row, 1},
                                   rows_to_come<T>(), keys, p.value_depth, group.rows(), at.out,
                                   out_row);
    for (index j = 0; j < keys; ++j) {
      const T* const value = p.memory.value_at(t.key + first + j).data;
      for (index c = 0; c < p.value_depth; ++c) {
        const T x = value[c];
        if (x - x == T(0)) continue;
        for (index r = 0; r < group.rows(); ++r) {
          const auto row = static_cast<std::int32_t>(r % queries);
          const position pair{t.batch, t.head + static_cast<std::int32_t>(r / queries), row,
                              t.query + row, t.key + static_cast<std::int32_t>(first + j)};
          if (!rules.visible(rules.mask, pair)) continue;
          at.out[r * out_row + c] += at.scores[r * keys_a_tile + first + j] * x;
        }
      }
    }
  }
}

/// softmax of one row of the tile: turns scores into exp(s - highest), raises `highest`, and
/// shrinks what was summed before by as much.
template <class T>
ATTN_NOINLINE void absorb_row(T* scores, index keys, T* highest, T* sum, T* out,
                              index value_depth) {
  constexpr int lanes = vec<T>::lanes;
  constexpr T lowest = -std::numeric_limits<T>::infinity();
  const index whole = whole_vectors<T>(keys);
  std::fill(scores + keys, scores + whole, lowest);
  vec<T> most = broadcast(*highest);
  for (index j = 0; j < whole; j += lanes) most = larger(load(scores + j), most);
  alignas(64) T of_lane[lanes];
  store(of_lane, most);
  const T before = *highest;
  const T now = *std::max_element(of_lane, of_lane + lanes);
  *highest = now;

  const vec<T> unit = broadcast(bits<T>(1));
  const vec<T> base = broadcast(now == lowest ? T(0) : now);
  if (now > before) {
    store(of_lane, exp2((broadcast(before) - base) * unit));
    const vec<T> factor = broadcast(of_lane[0]);
    store(sum, load(sum) * factor);
    for (index c = 0; c < value_depth; c += lanes) store(out + c, load(out + c) * factor);
  }
  vec<T> added = load(sum);
  for (index j = 0; j < whole; j += lanes) {
    const vec<T> weight = exp2((load(scores + j) - base) * unit);
    store(scores + j, weight);
    added = added + weight;
  }
  store(sum, added);
}

/// The keys [key, end) as the first head of a group sees them.
template <class T>
tile tile_of(const query_group<T>& group, index key, index end) {
  const problem<T>& p = group.p;
  return {p.batch,
          p.head,
          0,
          p.shape.offset,
          static_cast<std::int32_t>(key),
          p.shape.queries,
          static_cast<std::int32_t>(end - key)};
}

/// How much of a tile the heads of a group see between them.
template <class T>
coverage cover_of_group(const query_group<T>& group, const score_rules<T>& rules, tile t) {
  coverage seen = rules.cover(rules.mask, t);
  for (index g = 1; g < group.heads; ++g) {
    t.head = group.p.head + static_cast<std::int32_t>(g);
    if (rules.cover(rules.mask, t) != seen) return coverage::some;
  }
  return seen;
}

/// change and mask, row by row.
template <class T>
void apply_rules(const query_group<T>& group, const score_rules<T>& rules, coverage seen,
                 const tile& t, T* scores) {
  const bool masked = rules.biased || seen == coverage::some;
  if (!rules.changes && !masked) return;
  position at{t.batch, t.head, t.row, t.query, t.key};
  for (index g = 0; g < group.heads; ++g, ++at.head) {
    for (std::int32_t i = 0; i < t.rows; ++i, scores += keys_a_tile) {
      at.row = t.row + i;
      at.query = t.query + i;
      if (rules.changes) rules.change_row(rules, scores, at, t.keys);
      if (masked) rules.mask_row(rules, scores, at, t.keys);
    }
  }
}

/// Rows of queries as `decode_memory` holds them.
template <class T>
void gather_queries(const query_group<T>& group, const decode_memory<T>& at) {
  const problem<T>& p = group.p;
  const index row = whole_vectors<T>(p.depth);
  for (index g = 0; g < group.heads && p.depth > 0; ++g) {
    copy(p.query.moved(g * group.query_head),
         strided<T>{at.query + g * p.shape.queries * row, row, 1}, p.shape.queries, p.depth, false);
  }
}

/// One chunk for a group of heads.
template <class T>
void attend_chunk(const query_group<T>& group, const score_rules<T>& rules,
                  const decode_memory<T>& at, care with) {
  const problem<T>& p = group.p;
  const index rows = group.rows();
  const index out_row = whole_vectors<T>(p.value_depth);
  std::fill_n(at.out, rows * out_row, T(0));
  std::fill_n(at.sum, rows * vec<T>::lanes, T(0));
  std::fill_n(at.highest, rows, -std::numeric_limits<T>::infinity());

  for (index key = std::max(group.begin, p.first_key); key < group.end;) {
    const index end = std::min(group.end, key - key % keys_a_tile + keys_a_tile);
    const tile t = tile_of(group, key, end);
    key = end;
    const coverage seen = cover_of_group(group, rules, t);
    if (seen == coverage::none) continue;
    score_strips(group, at, t);
    apply_rules(group, rules, seen, t, at.scores);
    {
      [[maybe_unused]] const flush_small flush(true);
      for (index r = 0; r < rows; ++r) {
        absorb_row(at.scores + r * keys_a_tile, t.keys, at.highest + r, at.sum + r * vec<T>::lanes,
                   at.out + r * out_row, p.value_depth);
      }
    }
    if (with == care::none) {
      add_strips(group, at, t);
    } else {
      add_strips_with_care(group, rules, at, t, with);
    }
  }
}

/// Divides by the sums, into the group's results; with care only where those are not finite yet.
/// Returns whether all is finite now.
template <class T>
bool collect(const query_group<T>& group, const decode_memory<T>& at, care with) {
  const index value_depth = group.p.value_depth;
  bool finite = true;
  for (index r = 0; r < group.rows(); ++r) {
    T sum = 0;
    for (int w = 0; w < vec<T>::lanes; ++w) sum += at.sum[r * vec<T>::lanes + w];
    group.highest[r] = at.highest[r];
    group.sum[r] = sum;
    const T* const from = at.out + r * whole_vectors<T>(value_depth);
    T* const to = group.out + r * value_depth;
    for (index c = 0; c < value_depth; ++c) {
      if (with == care::none || !(to[c] - to[c] == T(0))) {
        to[c] = sum == T(0) ? T(0) : from[c] / sum * (1 / shrinking<T>(with));
      }
      finite = finite && to[c] - to[c] == T(0);
    }
  }
  return finite;
}

/// Numbers that `decode` needs to work in.
template <class T>
index decode_memory_size(const problem<T>& p, index heads) {
  return decode_memory<T>::size(p.depth, p.value_depth, heads * p.shape.queries);
}

/// One chunk of keys for a group of heads; with the care that `forward` takes where something is
/// not finite.
template <class T>
void decode(const query_group<T>& group, const score_rules<T>& rules, T* memory) {
  const problem<T>& p = group.p;
  const decode_memory<T> at = decode_memory<T>::of(memory, p.depth, p.value_depth, group.rows());
  const index first = std::max(group.begin, p.first_key);
  if (first >= group.end ||
      cover_of_group(group, rules, tile_of(group, first, group.end)) == coverage::none) {
    std::fill_n(group.out, group.rows() * p.value_depth, T(0));
    std::fill_n(group.highest, group.rows(), -std::numeric_limits<T>::infinity());
    std::fill_n(group.sum, group.rows(), T(0));
    return;
  }
  gather_queries(group, at);
  for (const care with : {care::none, care::exact, care::shrunk}) {
    attend_chunk(group, rules, at, with);
    if (collect(group, at, with)) break;
  }
}

#if defined(ATTN_ENGINE_INSTANCE)
ATTN_ENGINE_INSTANCE void decode<float>(const query_group<float>& group,
                                        const score_rules<float>& rules, float* memory);
ATTN_ENGINE_INSTANCE void decode<double>(const query_group<double>& group,
                                         const score_rules<double>& rules, double* memory);
#endif

template <class T>
engine_functions<T> functions() {
  return {vec<T>::lanes, memory_size<T>, forward<T>, decode_memory_size<T>, decode<T>};
}
