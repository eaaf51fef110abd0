// Score changes and masks on a tile of scores: what happens between score and softmax.
// A user's function is called in loops of fixed width over the lanes, which compilers vectorise;
// its results go to memory of our own first, which nothing that it reads can overlap.

/// s = change(s, position)
template <class T, class F>
void change_scores(const score_rules<T>& rules, const score_tile<T>& t) {
  if constexpr (!std::is_same_v<F, no_change>) {
    constexpr int lanes = vec<T>::lanes;
    const F& change = *static_cast<const F*>(rules.change);
    for (std::int32_t j = 0; j < t.place.keys; ++j) {
      for (index first = 0; first < t.lanes; first += lanes) {
        T* s = t.scores + j * t.lanes + first;
        T changed[lanes];
        for (int w = 0; w < lanes; ++w) changed[w] = change(s[w], t.at(first + w, j));
        std::memcpy(s, changed, sizeof changed);
      }
    }
  }
}

/// The same for one row, as many keys at once as there are lanes.
template <class T, class F>
void change_row(const score_rules<T>& rules, T* scores, position at, std::int32_t keys) {
  if constexpr (!std::is_same_v<F, no_change>) {
    constexpr int lanes = vec<T>::lanes;
    const F& change = *static_cast<const F*>(rules.change);
    const auto changed = [&](std::int32_t j) {
      return change(scores[j], {at.batch, at.head, at.row, at.query, at.key + j});
    };
    std::int32_t j = 0;
    for (; j + lanes <= keys; j += lanes) {
      T whole[lanes];
      for (int w = 0; w < lanes; ++w) whole[w] = changed(j + w);
      std::memcpy(scores + j, whole, sizeof whole);
    }
    for (; j < keys; ++j) scores[j] = changed(j);
  }
}

// A mask as numbers to be added to scores: the bias, or 0 without one, and -inf where it hides. The
// first part of a mask starts the tile, further ones join what is there.
enum class part { first, further };

/// Whether the vector of lanes from `first` on holds as many different rows.
template <class T>
bool is_whole(const score_tile<T>& t, index first) {
  return t.row[first + vec<T>::lanes - 1] == t.row[first] + vec<T>::lanes - 1;
}

/// The bias of one vector of lanes. -inf wins over all: by selection, for with inf it makes NaN.
template <part Part, class T>
ATTN_INLINE void put_bias(T* s, vec<T> bias) {
  if constexpr (Part == part::first) {
    store(s, bias);
  } else {
    const vec<T> lowest = broadcast(-std::numeric_limits<T>::infinity());
    const vec<T> sum = where_equal(bias, lowest, lowest, load(s) + bias);
    store(s, where_equal(load(s), lowest, lowest, sum));
  }
}

template <part Part, class T, class M>
void write_bias(const score_tile<T>& t, const M& mask, index first, std::int32_t j) {
  constexpr int lanes = vec<T>::lanes;
  alignas(64) T bias[lanes];
  for (int w = 0; w < lanes; ++w) bias[w] = detail::saturated<T>(mask.bias(t.at(first + w, j)));
  put_bias<Part>(t.scores + j * t.lanes + first, load(bias));
}

/// The same for a matrix in memory: squares of lanes x lanes at once where it holds numbers of type
/// T with contiguous rows or columns.
template <part Part, class T, class M>
void write_bias_matrix(const score_tile<T>& t, const M& mask) {
  using element = std::remove_cvref_t<decltype(*mask.data(0, 0))>;
  constexpr int lanes = vec<T>::lanes;
  const index row_stride = mask.row_stride();
  const index key_stride = mask.key_stride();
  for (index first = 0; first < t.lanes; first += lanes) {
    std::int32_t j = 0;
    if constexpr (std::is_same_v<element, T>) {
      const T* from = mask.data(t.place.batch, t.place.head) + t.row[first] * row_stride +
                      t.place.key * key_stride;
      T* s = t.scores + first;
      if (row_stride == 0) {
        for (; j < t.place.keys; ++j) {
          put_bias<Part>(s + j * t.lanes, broadcast(from[j * key_stride]));
        }
      } else if (row_stride == 1 && is_whole(t, first)) {
        for (; j < t.place.keys; ++j) {
          put_bias<Part>(s + j * t.lanes, load(from + j * key_stride));
        }
      } else if (key_stride == 1 && is_whole(t, first)) {
        for (; j + lanes <= t.place.keys; j += lanes) {
          if constexpr (Part == part::first) {
            transpose(from + j, row_stride, s + j * t.lanes, t.lanes);
          } else {
            alignas(64) T square[lanes * lanes];
            transpose(from + j, row_stride, square, lanes);
            for (int k = 0; k < lanes; ++k) {
              put_bias<Part>(s + (j + k) * t.lanes, load(square + k * lanes));
            }
          }
        }
      }
    }
    for (; j < t.place.keys; ++j) write_bias<Part>(t, mask, first, j);
  }
}

/// -inf where `seen` tells that the mask hides, for one vector of lanes.
template <part Part, class T, class Seen>
ATTN_INLINE void hide(T* s, const Seen& seen) {
  constexpr int lanes = vec<T>::lanes;
  T written[lanes];
  for (int w = 0; w < lanes; ++w) {
    written[w] =
        seen(w) ? (Part == part::first ? T(0) : s[w]) : -std::numeric_limits<T>::infinity();
  }
  std::memcpy(s, written, sizeof written);
}

template <part Part, class T, class M>
void hide_vector(const score_tile<T>& t, const M& mask, index first, std::int32_t j) {
  hide<Part>(t.scores + j * t.lanes + first,
             [&](int w) { return static_cast<bool>(mask.visible(t.at(first + w, j))); });
}

/// The same for `lanes · sizeof(T)` keys of a boolean matrix with contiguous rows. A row's bytes
/// are taken as numbers of type T and turned into lanes together, sizeof(T) keys a number.
template <part Part, class T>
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
  T* s = t.scores + j * t.lanes + first;
  for (int c = 0; c < lanes; ++c) {
    word words[lanes];
    std::memcpy(words, turned + c * lanes, sizeof words);
    ATTN_UNROLL
    for (unsigned b = 0; b < sizeof(T); ++b, s += t.lanes) {
      constexpr unsigned last = sizeof(T) - 1;
      const word byte = word{0xff}
                        << 8 * (std::endian::native == std::endian::little ? b : last - b);
      hide<Part>(s, [&](int w) { return (words[w] & byte) != 0; });
    }
  }
}

template <part Part, class T, class M>
void hide_by_matrix(const score_tile<T>& t, const M& mask) {
  constexpr std::int32_t keys_at_once = vec<T>::lanes * std::int32_t{sizeof(T)};
  for (index first = 0; first < t.lanes; first += vec<T>::lanes) {
    std::int32_t j = 0;
    if (mask.key_stride() == 1 && mask.row_stride() != 0 && is_whole(t, first)) {
      const bool* from =
          mask.data(t.place.batch, t.place.head) + t.row[first] * mask.row_stride() + t.place.key;
      for (; j + keys_at_once <= t.place.keys; j += keys_at_once) {
        hide_bytes<Part>(t, from + j, mask.row_stride(), first, j);
      }
    }
    for (; j < t.place.keys; ++j) hide_vector<Part>(t, mask, first, j);
  }
}

/// A few keys at a time, of which the mask may leave all visible.
template <part Part, class T, class M>
void hide_some(const score_tile<T>& t, const M& mask) {
  constexpr std::int32_t step = 16;
  tile piece = t.place;
  for (std::int32_t from = 0; from < t.place.keys; from += step) {
    piece.key = t.place.key + from;
    piece.keys = std::min(step, t.place.keys - from);
    if (mask.cover(piece) == coverage::all) {
      if (Part == part::first) std::fill_n(t.scores + from * t.lanes, piece.keys * t.lanes, T(0));
      continue;
    }
    for (std::int32_t j = from; j < from + piece.keys; ++j) {
      for (index first = 0; first < t.lanes; first += vec<T>::lanes) {
        hide_vector<Part>(t, mask, first, j);
      }
    }
  }
}

template <part Part, class T, class M>
void write_part(const score_tile<T>& t, const M& mask) {
  constexpr bool has_bias = requires { mask.bias(position{}); };
  constexpr bool in_memory = requires {  // as the library's masks of matrices are
    *mask.data(0, 0);
    index{mask.row_stride()};
    index{mask.key_stride()};
  };
  if constexpr (requires { M::conjunction; }) {
    write_part<Part>(t, mask.first);
    write_part<part::further>(t, mask.second);
  } else if constexpr (has_bias && in_memory) {
    write_bias_matrix<Part>(t, mask);
  } else if constexpr (has_bias) {
    for (std::int32_t j = 0; j < t.place.keys; ++j) {
      for (index first = 0; first < t.lanes; first += vec<T>::lanes) {
        write_bias<Part>(t, mask, first, j);
      }
    }
    hide_some<part::further>(t, mask);
  } else if constexpr (in_memory) {
    hide_by_matrix<Part>(t, mask);
  } else {
    hide_some<Part>(t, mask);
  }
}

template <class T, class M>
void write_mask(const score_rules<T>& rules, const score_tile<T>& t) {
  write_part<part::first>(t, *static_cast<const M*>(rules.mask));
}

/// What is hidden becomes -inf, by selection, for NaN and inf would win over a sum; the rest gets
/// the mask added unless the product has done so. Raises `highest` to the largest of each lane.
template <class T, int Vectors>
ATTN_NOINLINE void apply_mask(const T* mask, bool adds, index keys, T* scores, T* highest) {
  constexpr int lanes = vec<T>::lanes;
  const vec<T> lowest = broadcast(-std::numeric_limits<T>::infinity());
  for (int v = 0; v < Vectors; ++v) {
    vec<T> most = lowest;
    for (index j = 0; j < keys; ++j) {
      T* s = scores + j * width<T, Vectors> + v * lanes;
      const vec<T> bias = load(mask + j * width<T, Vectors> + v * lanes);
      const vec<T> seen = adds ? load(s) + bias : load(s);
      const vec<T> masked = where_equal(bias, lowest, lowest, seen);
      store(s, masked);
      most = larger(masked, most);
    }
    store(highest + v * lanes, most);
  }
}

/// s = s + bias, and -inf where the mask hides, for one row.
template <class T, class M>
void mask_row(const score_rules<T>& rules, T* scores, position at, std::int32_t keys) {
  constexpr int lanes = vec<T>::lanes;
  constexpr T lowest = -std::numeric_limits<T>::infinity();
  const M& mask = *static_cast<const M*>(rules.mask);
  const auto masked = [&](std::int32_t j) {
    const position key{at.batch, at.head, at.row, at.query, at.key + j};
    T bias = T(0);
    if constexpr (requires { mask.bias(key); }) bias = detail::saturated<T>(mask.bias(key));
    return static_cast<bool>(mask.visible(key)) && bias != lowest ? scores[j] + bias : lowest;
  };
  std::int32_t j = 0;
  for (; j + lanes <= keys; j += lanes) {
    T whole[lanes];
    for (int w = 0; w < lanes; ++w) whole[w] = masked(j + w);
    std::memcpy(scores + j, whole, sizeof whole);
  }
  for (; j < keys; ++j) scores[j] = masked(j);
}

template <class T, class M, class F>
void set_functions(score_rules<T>& rules) {
  rules.change_scores = change_scores<T, F>;
  rules.write_mask = write_mask<T, M>;
  rules.change_row = change_row<T, F>;
  rules.mask_row = mask_row<T, M>;
}
