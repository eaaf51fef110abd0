// Dropout on a tile: which weights are kept, by Philox in every lane (see `attn::philox`).

/// Four random words for each of words::lanes rows: words[n][lane].
ATTN_INLINE void philox_words(const std::uint32_t* row, const std::uint32_t (&counter)[3],
                              const words (&key)[philox::rounds][2], words (&c)[4]) {
  const words multiplier[2] = {broadcast_word(philox::multiplier[0]),
                               broadcast_word(philox::multiplier[1])};
  c[0] = load_words(row);
  for (int n = 0; n < 3; ++n) c[n + 1] = broadcast_word(counter[n]);
  ATTN_UNROLL
  for (int round = 0; round < philox::rounds; ++round) {
    const words a = multiply(c[0], multiplier[0]);
    const words b = multiply(c[2], multiplier[1]);
    c[0] = exclusive_or(high_half(b), c[1], key[round][0]);
    c[2] = exclusive_or(high_half(a), c[3], key[round][1]);
    c[1] = b;
    c[3] = a;
  }
}

/// kept[j][lane] = `factor` where the weight of key j is kept, else 0. The factors lie as the
/// scores do.
template <class T>
ATTN_NOINLINE void write_kept(const score_tile<T>& t, const detail::dropping& draws, T factor,
                              T* kept) {
  constexpr int lanes = vec<T>::lanes;  // a multiple of words::lanes
  words key[philox::rounds][2];
  for (unsigned round = 0; round < philox::rounds; ++round) {
    for (int n = 0; n < 2; ++n) {
      key[round][n] = broadcast_word(draws.key[n] + round * philox::weyl[n]);
    }
  }
  const auto of = [](std::int32_t n) { return static_cast<std::uint32_t>(n); };
  const std::int32_t last = t.place.key + t.place.keys - 1;
  for (index first = 0; first < t.lanes; first += lanes) {
    std::uint32_t row[lanes];
    for (int w = 0; w < lanes; ++w) row[w] = of(t.row[first + w]);
    for (std::int32_t four = t.place.key / 4; four <= last / 4; ++four) {
      const std::uint32_t counter[3] = {of(four), of(t.place.head), of(t.place.batch)};
      std::uint32_t drawn[4][lanes];
      for (int w = 0; w < lanes; w += words::lanes) {
        words c[4];
        philox_words(row + w, counter, key, c);
        for (int n = 0; n < 4; ++n) store_words(drawn[n] + w, c[n]);
      }
      for (std::int32_t n = 0; n < 4; ++n) {
        const std::int32_t j = 4 * four + n - t.place.key;
        if (j < 0 || j >= t.place.keys) continue;
        T factors[lanes];
        for (int w = 0; w < lanes; ++w) factors[w] = drawn[n][w] >= draws.threshold ? factor : T(0);
        std::memcpy(kept + j * t.lanes + first, factors, sizeof factors);
      }
    }
  }
}

/// Weights of a tile, each times 0 or the factor of what is kept. `kept` is for as many numbers.
template <class T>
ATTN_NOINLINE void drop(const score_tile<T>& t, const detail::dropping& draws, T* kept) {
  write_kept(t, draws, static_cast<T>(draws.factor), kept);
  for (index i = 0; i < t.place.keys * t.lanes; i += vec<T>::lanes) {
    store(t.scores + i, load(t.scores + i) * load(kept + i));
  }
}
