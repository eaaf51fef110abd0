// Score changes and masks on a tile of scores: what happens between score and softmax.
// A user's function is called in loops of fixed width over the lanes, which compilers vectorise;
// its results go to memory of our own first, which nothing that it reads can overlap.

/// s = change(scale · x, position)
template <class T, class F>
void change_each(const score_tile<T>& t, T scale, const F& change) {
  constexpr int lanes = vec<T>::lanes;
  for (std::int32_t j = 0; j < t.place.keys; ++j) {
    for (index first = 0; first < t.lanes; first += lanes) {
      T* s = t.scores + j * t.lanes + first;
      T changed[lanes];
      for (int w = 0; w < lanes; ++w) changed[w] = change(scale * s[w], t.at(first + w, j));
      std::memcpy(s, changed, sizeof changed);
    }
  }
}

/// s = scale · x
template <class T>
void scale_each(const score_tile<T>& t, T scale) {
  const vec<T> factor = broadcast(scale);
  for (index i = 0; i < t.place.keys * t.lanes; i += vec<T>::lanes) {
    store(t.scores + i, load(t.scores + i) * factor);
  }
}

/// s = s + bias, for the additive parts of a mask.
template <class T, class M>
void add_bias(const score_tile<T>& t, const M& mask) {
  if constexpr (requires { M::conjunction; }) {
    if constexpr (requires { mask.first.bias(position{}); }) add_bias(t, mask.first);
    if constexpr (requires { mask.second.bias(position{}); }) add_bias(t, mask.second);
  } else {
    constexpr int lanes = vec<T>::lanes;
    for (std::int32_t j = 0; j < t.place.keys; ++j) {
      for (index first = 0; first < t.lanes; first += lanes) {
        T* s = t.scores + j * t.lanes + first;
        T changed[lanes];
        for (int w = 0; w < lanes; ++w) {
          changed[w] = s[w] + static_cast<T>(mask.bias(t.at(first + w, j)));
        }
        std::memcpy(s, changed, sizeof changed);
      }
    }
  }
}

/// s = -inf where the mask hides a key.
template <class T, class M>
void hide_each(const score_tile<T>& t, const M& mask) {
  if constexpr (requires { M::conjunction; }) {
    hide_each(t, mask.first);
    hide_each(t, mask.second);
  } else {
    if (mask.cover(t.place) == coverage::all) return;
    constexpr int lanes = vec<T>::lanes;
    for (std::int32_t j = 0; j < t.place.keys; ++j) {
      for (index first = 0; first < t.lanes; first += lanes) {
        T* s = t.scores + j * t.lanes + first;
        T changed[lanes];
        for (int w = 0; w < lanes; ++w) {
          changed[w] =
              mask.visible(t.at(first + w, j)) ? s[w] : -std::numeric_limits<T>::infinity();
        }
        std::memcpy(s, changed, sizeof changed);
      }
    }
  }
}

template <class T, class M, class F>
void change_scores(const score_rules<T>& rules, const score_tile<T>& t, T scale) {
  if constexpr (!std::is_same_v<F, no_change>) {
    change_each(t, scale, *static_cast<const F*>(rules.change));
  } else {
    scale_each(t, scale);
  }
  if constexpr (requires(const M& mask) { mask.bias(position{}); }) {
    add_bias(t, *static_cast<const M*>(rules.mask));
  }
}

template <class T, class M>
void hide(const score_rules<T>& rules, const score_tile<T>& t) {
  hide_each(t, *static_cast<const M*>(rules.mask));
}
