// Dropout on a tile: which weights are kept, by Philox in every lane (see `attn::philox`).

/// Philox for some rows, one a lane, with what does not depend on the key done once: the counter is
/// (row, key / 4, head, batch), of which the first three rounds mix the second in late.
struct philox_of_rows {
  words key[philox::rounds][2];
  words multiplier[2];
  words third_low;     // of round 2: c[3] and the key,
  words third[2];      // and of round 3: c[1] and c[2] with the keys,
  words third_fourth;  // and c[3]
  std::uint32_t first_high = 0;
  std::uint32_t first_key = 0;

  philox_of_rows(const std::uint32_t* row, const detail::dropping& draws, std::uint32_t head,
                 std::uint32_t batch)
      : multiplier{broadcast(philox::multiplier[0]), broadcast(philox::multiplier[1])},
        first_key(draws.key[0]) {
    for (unsigned round = 0; round < philox::rounds; ++round) {
      for (int n = 0; n < 2; ++n) key[round][n] = broadcast(draws.key[n] + round * philox::weyl[n]);
    }
    const std::uint64_t of_head = std::uint64_t{philox::multiplier[1]} * head;
    first_high = static_cast<std::uint32_t>(of_head >> 32);
    const words none = broadcast(std::uint32_t{0});
    words high, low;
    multiply(load(row), multiplier[0], high, low);
    third_low = exclusive_or(low, key[1][1], none);
    multiply(exclusive_or(high, broadcast(batch), key[0][1]), multiplier[1], high, low);
    third[0] = exclusive_or(low, key[2][0], none);
    const words second =
        exclusive_or(high, broadcast(static_cast<std::uint32_t>(of_head)), key[1][0]);
    multiply(second, multiplier[0], high, third_fourth);
    third[1] = exclusive_or(high, key[2][1], none);
  }

  /// Four words a row, for the four keys from 4 · `four` on.
  ATTN_INLINE void draw(std::uint32_t four, words (&c)[4]) const {
    const words none = broadcast(std::uint32_t{0});
    const std::uint64_t of_key =
        std::uint64_t{philox::multiplier[0]} * (first_high ^ four ^ first_key);
    words high, low;
    c[2] = exclusive_or(third_low, broadcast(static_cast<std::uint32_t>(of_key >> 32)), none);
    multiply(c[2], multiplier[1], high, c[1]);
    c[0] = exclusive_or(high, third[0], none);
    c[2] = exclusive_or(third[1], broadcast(static_cast<std::uint32_t>(of_key)), none);
    c[3] = third_fourth;
    ATTN_UNROLL
    for (int round = 3; round < philox::rounds; ++round) {
      words other_high, other_low;
      multiply(c[0], multiplier[0], high, low);
      multiply(c[2], multiplier[1], other_high, other_low);
      c[0] = exclusive_or(other_high, c[1], key[round][0]);
      c[2] = exclusive_or(high, c[3], key[round][1]);
      c[1] = other_low;
      c[3] = low;
    }
  }
};

/// Whether the factors of dropout are written, or what is there is multiplied by them.
enum class factors_are { written, multiplied };

/// to[j][lane] = 1 / (1 - probability) where the weight of key j is kept, else 0; or to[j][lane]
/// times that. `to` lies as the scores do.
template <factors_are Are, class T>
ATTN_NOINLINE void write_factors(const score_tile<T>& t, const detail::dropping& draws, T* to) {
  const T factor = static_cast<T>(draws.factor);
  const auto of = [](std::int32_t n) { return static_cast<std::uint32_t>(n); };
  const std::int32_t last = t.place.key + t.place.keys - 1;
  for (index first = 0; first < t.lanes; first += words::lanes) {
    std::uint32_t row[words::lanes];
    for (index w = 0; w < words::lanes; ++w) row[w] = of(t.row[std::min(first + w, t.lanes - 1)]);
    const philox_of_rows rows(row, draws, of(t.place.head), of(t.place.batch));
    for (std::int32_t four = t.place.key / 4; four <= last / 4; ++four) {
      words c[4];
      rows.draw(of(four), c);
      std::uint32_t drawn[4][words::lanes];
      ATTN_UNROLL
      for (int n = 0; n < 4; ++n) store(drawn[n], c[n]);
      for (std::int32_t n = 0; n < 4; ++n) {
        const std::int32_t j = 4 * four + n - t.place.key;
        if (j < 0 || j >= t.place.keys) continue;
        T factors[words::lanes];
        for (int w = 0; w < words::lanes; ++w) {
          factors[w] = drawn[n][w] >= draws.threshold ? factor : T(0);
        }
        T* const at = to + j * t.lanes + first;
        for (index w = 0; w < std::min<index>(words::lanes, t.lanes - first); w += vec<T>::lanes) {
          const vec<T> x = load(factors + w);
          store(at + w, Are == factors_are::written ? x : x * load(at + w));
        }
      }
    }
  }
}
