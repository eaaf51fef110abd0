// What a block of queries works in and the tiles of keys that it goes over.

/// Keys in a tile. Tiles lie on a fixed grid of keys, so that a row's sums are grouped alike
/// whatever block it is in.
inline constexpr std::int32_t keys_a_tile = 128;

/// Where a block of queries keeps its numbers, all [something][lane].
template <class T>
struct block_memory {
  T* query;         // depth
  T* scores;        // keys_a_tile
  T* mask;          // keys_a_tile
  T* out;           // value_depth, not yet divided by the sums
  T* highest;       // of the rows so far
  T* tile_highest;  // of the tile
  T* sum;
  T* factor;
  T* second;  // value_depth: out again, with care
  T* finite;  // keys_a_tile x value_depth: values without what is not finite

  static constexpr index size(index depth, index value_depth, index keys, index lanes) {
    return (depth + 2 * keys + 2 * value_depth + 4) * lanes + keys * value_depth;
  }
  /// Each part starts at a whole vector, for all but the last are multiples of the lanes.
  static block_memory of(T* from, index depth, index value_depth, index keys, index lanes) {
    block_memory at{};
    at.query = from;
    at.scores = at.query + depth * lanes;
    at.mask = at.scores + keys * lanes;
    at.out = at.mask + keys * lanes;
    at.highest = at.out + value_depth * lanes;
    at.tile_highest = at.highest + lanes;
    at.sum = at.tile_highest + lanes;
    at.factor = at.sum + lanes;
    at.second = at.factor + lanes;
    at.finite = at.second + value_depth * lanes;
    return at;
  }
};

/// One block of queries against all keys: whose scores its tiles hold.
template <class T>
struct query_rows {
  const problem<T>& p;
  const score_rules<T>& rules;
  index first;
  index rows;
  const std::int32_t* row;  // of each lane
};

/// The row of each lane: the last one again in lanes beyond the rows.
template <class T, int Vectors>
struct lane_rows {
  std::int32_t row[width<T, Vectors>];

  lane_rows(index first, index rows) {
    for (index w = 0; w < width<T, Vectors>; ++w) {
      row[w] = static_cast<std::int32_t>(first + std::min(w, rows - 1));
    }
  }
};

/// Keys of a tile, counted from its first.
struct key_range {
  std::int32_t begin;
  std::int32_t end;

  [[nodiscard]] bool contains(const key_range& other) const {
    return begin <= other.begin && other.end <= end;
  }
};

/// The keys of a tile but for those at both ends that the mask hides from all its rows, cut off in
/// steps of a few. Some keys are left.
template <class T>
key_range seen_keys(const tile& t, const score_rules<T>& rules) {
  constexpr std::int32_t step = 8;
  key_range left{0, t.keys};
  const auto hidden = [&](std::int32_t first, std::int32_t keys) {
    if (keys >= left.end - left.begin) return false;
    tile piece = t;
    piece.key += first;
    piece.keys = keys;
    return rules.cover(rules.mask, piece) == coverage::none;
  };
  if (hidden(0, step)) {
    left.begin = step;
    for (std::int32_t keys = keys_a_tile / 2; keys >= step; keys /= 2) {
      if (hidden(left.begin, keys)) left.begin += keys;
    }
  }
  const std::int32_t rest = (t.keys - 1) % step + 1;
  if (hidden(t.keys - rest, rest)) {
    left.end -= rest;
    for (std::int32_t keys = keys_a_tile / 2; keys >= step; keys /= 2) {
      if (hidden(left.end - keys, keys)) left.end -= keys;
    }
  }
  return left;
}

/// Keys of a tile, and the vectors of lanes that they are multiplied with.
struct tile_part {
  key_range keys;
  std::int32_t vector;  // the first
  std::int32_t vectors;
};

/// What a tile is cut into where the mask hides some of it: keys that the first or the last of
/// three vectors of lanes does not see are multiplied with the other two.
template <class T>
class tile_parts {
 public:
  /// A whole tile.
  tile_parts(const tile& t, std::int32_t vectors) : count_(1) {
    part_[0] = {{0, t.keys}, 0, vectors};
  }

  tile_parts(const tile& t, const score_rules<T>& rules) {
    constexpr std::int32_t vectors = vectors_a_block, before = (vectors - 1) * vec<T>::lanes;
    tile of_vector = t;
    of_vector.rows = vec<T>::lanes;
    const key_range seen_by_first = seen_keys(of_vector, rules);
    of_vector.row += before;
    of_vector.query += before;
    of_vector.rows = t.rows - before;
    const key_range seen_by_last = seen_keys(of_vector, rules);
    std::int32_t edges[6];  // in order
    std::int32_t count = 0;
    for (const key_range& range : {key_range{0, t.keys}, seen_by_first, seen_by_last}) {
      for (const std::int32_t edge : {range.begin, range.end}) {
        std::int32_t at = count++;
        for (; at > 0 && edges[at - 1] > edge; --at) edges[at] = edges[at - 1];
        edges[at] = edge;
      }
    }
    for (std::int32_t i = 1; i < count; ++i) {
      const key_range keys{edges[i - 1], edges[i]};
      if (keys.begin == keys.end) continue;
      const bool first = seen_by_first.contains(keys), last = seen_by_last.contains(keys);
      part_[count_++] = {keys, first ? 0 : 1, first && last ? vectors : vectors - 1};
    }
  }

  [[nodiscard]] std::int32_t count() const { return count_; }
  [[nodiscard]] const tile_part* begin() const { return part_; }
  [[nodiscard]] const tile_part* end() const { return part_ + count_; }

 private:
  tile_part part_[5];  // between six edges
  std::int32_t count_ = 0;
};

/// The parts of a tile, or all of it as one where it is not to be cut, or has too few vectors.
template <class T>
tile_parts<T> parts_of(const tile& t, std::int32_t vectors, bool cut, const score_rules<T>& rules) {
  if (!cut || vectors < vectors_a_block || fewest_vectors == vectors_a_block) return {t, vectors};
  return {t, rules};
}

/// The keys [key, key + keys) as the rows of a block see them.
template <class T>
tile tile_of(const query_rows<T>& block, index key, index keys) {
  return {block.p.batch,
          block.p.head,
          block.row[0],
          block.row[0] + block.p.shape.offset,
          static_cast<std::int32_t>(key),
          static_cast<std::int32_t>(block.rows),
          static_cast<std::int32_t>(keys)};
}

/// Where the walk over the tiles starts.
template <class T>
index first_tile(const problem<T>& p) {
  return p.first_key - p.first_key % keys_a_tile;
}

/// Moves `key` on to the next tile of which something is seen, and tells how much. Where that is
/// some of it, its ends are cut off where nothing is. False where there is no further tile. Asks
/// for many tiles at once first, so that what a narrow window hides costs next to nothing.
template <class T>
bool find_tile(const query_rows<T>& block, index& key, tile& t, coverage& seen) {
  constexpr index keys_a_look = 32 * keys_a_tile;
  const score_rules<T>& rules = block.rules;
  const index end = block.p.shape.keys;
  for (; std::max(key, block.p.first_key) < end; key += keys_a_tile) {
    if (key % keys_a_look == 0 && key + keys_a_tile < end) {
      const tile many = tile_of(block, key, std::min(keys_a_look, end - key));
      if (rules.cover(rules.mask, many) == coverage::none) {
        key += keys_a_look - keys_a_tile;
        continue;
      }
    }
    const index first = std::max(key, block.p.first_key);
    t = tile_of(block, first, std::min<index>(key + keys_a_tile, end) - first);
    seen = rules.cover(rules.mask, t);
    if (seen == coverage::none) continue;
    if (seen == coverage::some) {
      const key_range some = seen_keys(t, rules);
      t.key += some.begin;
      t.keys = some.end - some.begin;
    }
    return true;
  }
  return false;
}

/// Queries that are worked on at once.
template <class T>
inline constexpr index block_rows = width<T, vectors_a_block>;

/// In how many vectors of lanes so many queries are worked on.
template <class T>
constexpr index vectors_of(index rows) {
  return std::max<index>((rows + vec<T>::lanes - 1) / vec<T>::lanes, fewest_vectors);
}

/// work(number of vectors, known to the compiler) for a block of so many queries.
template <class T, class Work>
ATTN_INLINE void with_vectors_of(index rows, const Work& work) {
  const index vectors = vectors_of<T>(rows);
  if constexpr (fewest_vectors == 1) {
    if (vectors == 1) return work(std::integral_constant<int, 1>());
    if (vectors == 2) return work(std::integral_constant<int, 2>());
  }
  work(std::integral_constant<int, vectors_a_block>());
}
