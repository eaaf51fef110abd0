// Score changes on the way back: their derivatives, and the gradients of what they learn.

/// gradient = gradient · change'(before), in loops of fixed width as `change_scores`.
template <class T, class F>
void change_gradient(const score_rules<T>& rules, const score_tile<T>& before, index rows,
                     T* gradient, double* parameters) {
  if constexpr (!std::is_same_v<F, no_change>) {
    constexpr int lanes = vec<T>::lanes;
    const F& change = *static_cast<const F*>(rules.change);
    const bool one_parameter = parameters != nullptr && change.parameters() == 1;
    double of_lane[lanes] = {};  // of a single parameter: sums that do not wait for one another
    for (std::int32_t j = 0; j < before.place.keys; ++j) {
      if (parameters != nullptr) {
        for (index w = 0; w < rows; ++w) {
          const index i = j * before.lanes + w;
          if (gradient[i] == T(0)) continue;
          change.add_parameter_gradient(before.scores[i], before.at(w, j), gradient[i],
                                        one_parameter ? of_lane + w % lanes : parameters);
        }
      }
      for (index first = 0; first < before.lanes; first += lanes) {
        const T* s = before.scores + j * before.lanes + first;
        T* g = gradient + j * before.lanes + first;
        T changed[lanes];
        for (int w = 0; w < lanes; ++w) {
          changed[w] = change.derivative(s[w], before.at(first + w, j));
        }
        for (int w = 0; w < lanes; ++w) {
          changed[w] = g[w] == T(0) ? T(0) : g[w] * changed[w];
        }
        std::memcpy(g, changed, sizeof changed);
      }
    }
    if (one_parameter) *parameters = std::accumulate(of_lane, of_lane + lanes, *parameters);
  }
}

template <class T, class F>
void set_gradient_functions(gradient_rules<T>& rules) {
  rules.change_gradient = change_gradient<T, F>;
}

template <class T>
gradient_functions<T> all_gradient_functions() {
  return {vec<T>::lanes,          keys_a_tile, gradient_memory_size<T>, backward<T>,
          tangent_memory_size<T>, tangent<T>};
}
