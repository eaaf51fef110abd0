// Score changes and masks on a tile of scores: what happens between score and softmax.
// A user's function is called in loops of fixed width over the lanes, which compilers vectorise;
// its results go to memory of our own first, which nothing that it reads can overlap.

/// s = change(s, position)
template <class T, class F>
void change_each(const score_tile<T>& t, const F& change) {
  constexpr int lanes = vec<T>::lanes;
  for (std::int32_t j = 0; j < t.place.keys; ++j) {
    for (index first = 0; first < t.lanes; first += lanes) {
      T* s = t.scores + j * t.lanes + first;
      T changed[lanes];
      for (int w = 0; w < lanes; ++w) changed[w] = change(s[w], t.at(first + w, j));
      std::memcpy(s, changed, sizeof changed);
    }
  }
}

/// Whether the vector of lanes from `first` on holds as many different rows.
template <class T>
bool is_whole(const score_tile<T>& t, index first) {
  return t.row[first + vec<T>::lanes - 1] == t.row[first] + vec<T>::lanes - 1;
}

/// s = s + bias, and -inf where the bias is: by selection, for a NaN would win over a sum.
template <class T>
ATTN_INLINE void add_vector(T* s, vec<T> bias) {
  const vec<T> lowest = broadcast(-std::numeric_limits<T>::infinity());
  store(s, where_equal(bias, lowest, lowest, load(s) + bias));
}

/// The same for a matrix in memory: squares of lanes x lanes at once where it holds numbers of type
/// T with contiguous rows or columns.
template <class T, class M>
void add_matrix(const score_tile<T>& t, const M& mask) {
  using element = std::remove_cvref_t<decltype(*mask.data())>;
  constexpr int lanes = vec<T>::lanes;
  const index row_stride = mask.row_stride();
  const index key_stride = mask.key_stride();
  for (index first = 0; first < t.lanes; first += lanes) {
    std::int32_t j = 0;
    if constexpr (std::is_same_v<element, T>) {
      const T* from = mask.data() + t.row[first] * row_stride + t.place.key * key_stride;
      T* s = t.scores + first;
      if (row_stride == 0) {
        for (; j < t.place.keys; ++j) add_vector(s + j * t.lanes, broadcast(from[j * key_stride]));
      } else if (row_stride == 1 && is_whole(t, first)) {
        for (; j < t.place.keys; ++j) add_vector(s + j * t.lanes, load(from + j * key_stride));
      } else if (key_stride == 1 && is_whole(t, first)) {
        for (; j + lanes <= t.place.keys; j += lanes) {
          alignas(64) T square[lanes * lanes];
          transpose(from + j, row_stride, square, lanes);
          for (int k = 0; k < lanes; ++k) {
            add_vector(s + (j + k) * t.lanes, load(square + k * lanes));
          }
        }
      }
    }
    for (; j < t.place.keys; ++j) {
      alignas(64) T bias[lanes];
      for (int w = 0; w < lanes; ++w) bias[w] = static_cast<T>(mask.bias(t.at(first + w, j)));
      add_vector(t.scores + j * t.lanes + first, load(bias));
    }
  }
}

/// s = s + bias for the additive parts of a mask, one after the other.
template <class T, class M>
void add_bias(const score_tile<T>& t, const M& mask) {
  if constexpr (requires { M::conjunction; }) {
    if constexpr (requires { mask.first.bias(position{}); }) add_bias(t, mask.first);
    if constexpr (requires { mask.second.bias(position{}); }) add_bias(t, mask.second);
  } else if constexpr (requires { mask.data(); }) {
    add_matrix(t, mask);
  } else {
    constexpr int lanes = vec<T>::lanes;
    for (std::int32_t j = 0; j < t.place.keys; ++j) {
      for (index first = 0; first < t.lanes; first += lanes) {
        alignas(64) T bias[lanes];
        for (int w = 0; w < lanes; ++w) bias[w] = static_cast<T>(mask.bias(t.at(first + w, j)));
        add_vector(t.scores + j * t.lanes + first, load(bias));
      }
    }
  }
}

/// s = -inf where the mask hides a key, for one vector of lanes.
template <class T, class M>
void hide_vector(const score_tile<T>& t, const M& mask, index first, std::int32_t j) {
  constexpr int lanes = vec<T>::lanes;
  T* s = t.scores + j * t.lanes + first;
  T changed[lanes];
  for (int w = 0; w < lanes; ++w) {
    changed[w] = mask.visible(t.at(first + w, j)) ? s[w] : -std::numeric_limits<T>::infinity();
  }
  std::memcpy(s, changed, sizeof changed);
}

/// The same for `lanes · sizeof(T)` keys of a boolean matrix with contiguous rows. A row's bytes
/// are taken as numbers of type T and turned into lanes together, sizeof(T) keys a number.
template <class T>
void hide_bytes(const score_tile<T>& t, const bool* from, index row_stride, index first,
                std::int32_t j) {
  using word = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  constexpr int lanes = vec<T>::lanes;
  alignas(64) T rows[lanes * lanes];
  alignas(64) T turned[lanes * lanes];
  for (int w = 0; w < lanes; ++w) {
    std::memcpy(rows + w * lanes, from + w * row_stride, lanes * sizeof(T));
  }
  transpose(rows, lanes, turned, lanes);
  for (int c = 0; c < lanes; ++c) {
    word words[lanes];
    std::memcpy(words, turned + c * lanes, sizeof words);
    for (std::int32_t b = 0; b < std::int32_t{sizeof(T)}; ++b) {
      const word byte = std::endian::native == std::endian::little
                            ? word{0xff} << (8 * b)
                            : word{0xff} << (8 * (sizeof(T) - 1 - static_cast<unsigned>(b)));
      T* s = t.scores + (j + c * std::int32_t{sizeof(T)} + b) * t.lanes + first;
      T changed[lanes];
      for (int w = 0; w < lanes; ++w) {
        changed[w] = (words[w] & byte) != 0 ? s[w] : -std::numeric_limits<T>::infinity();
      }
      std::memcpy(s, changed, sizeof changed);
    }
  }
}

template <class T, class M>
void hide_matrix(const score_tile<T>& t, const M& mask) {
  constexpr std::int32_t keys_at_once = vec<T>::lanes * std::int32_t{sizeof(T)};
  for (index first = 0; first < t.lanes; first += vec<T>::lanes) {
    std::int32_t j = 0;
    if (mask.key_stride() == 1 && mask.row_stride() != 0 && is_whole(t, first)) {
      const bool* from = mask.data() + t.row[first] * mask.row_stride() + t.place.key;
      for (; j + keys_at_once <= t.place.keys; j += keys_at_once) {
        hide_bytes(t, from + j, mask.row_stride(), first, j);
      }
    }
    for (; j < t.place.keys; ++j) hide_vector(t, mask, first, j);
  }
}

/// A few keys at a time, of which the mask may cover all.
template <class T, class M>
void hide_some(const score_tile<T>& t, const M& mask) {
  constexpr std::int32_t step = 16;
  tile part = t.place;
  for (std::int32_t from = 0; from < t.place.keys; from += step) {
    part.key = t.place.key + from;
    part.keys = std::min(step, t.place.keys - from);
    if (mask.cover(part) == coverage::all) continue;
    for (std::int32_t j = from; j < from + part.keys; ++j) {
      for (index first = 0; first < t.lanes; first += vec<T>::lanes) hide_vector(t, mask, first, j);
    }
  }
}

/// How many biases a mask adds up.
template <class M>
inline constexpr int biases = requires(const M& mask) { mask.bias(position{}); } ? 1 : 0;
template <class M>
  requires requires { M::conjunction; }
inline constexpr int biases<M> = biases<decltype(M::first)> + biases<decltype(M::second)>;

/// s = -inf where the mask hides a key. A single bias has done so itself.
template <class T, class M, bool AlsoBiases>
void hide_each(const score_tile<T>& t, const M& mask) {
  if constexpr (requires { M::conjunction; }) {
    hide_each<T, decltype(M::first), AlsoBiases>(t, mask.first);
    hide_each<T, decltype(M::second), AlsoBiases>(t, mask.second);
  } else if constexpr (biases<M> == 0 || AlsoBiases) {
    if (mask.cover(t.place) == coverage::all) return;
    if constexpr (requires { mask.data(); } && biases<M> == 0) {
      hide_matrix(t, mask);
    } else {
      hide_some(t, mask);
    }
  }
}

template <class T, class M, class F>
void change_scores(const score_rules<T>& rules, const score_tile<T>& t) {
  if constexpr (!std::is_same_v<F, no_change>) {
    change_each(t, *static_cast<const F*>(rules.change));
  }
  if constexpr (biases<M> > 0) add_bias(t, *static_cast<const M*>(rules.mask));
}

template <class T, class M>
void hide(const score_rules<T>& rules, const score_tile<T>& t) {
  hide_each<T, M, (biases<M> > 1)>(t, *static_cast<const M*>(rules.mask));
}
