// Attention of packed sequences: sequences of many lengths, one after the other in the same memory,
// told apart by where each starts, without padding.
#pragma once

#include <attn/heads_call.hpp>

namespace attn::inline ATTN_ABI {

/// Where packed sequences start: sequence n is tokens [starts[n], starts[n + 1]); one more number
/// than sequences, the first 0, the last the number of tokens (`cu_seqlens` elsewhere). Lists of
/// 32- or 64-bit integers, which outlive the call where they have names. A sequence may be empty.
struct packed_starts {
  integers query;  ///< of the queries
  integers key;    ///< of the keys

  /// @{
  /// Queries and keys are packed alike.
  packed_starts(integers both)  // NOLINT(google-explicit-constructor): a list stands for both
      : query(both), key(both) {}
  packed_starts(std::initializer_list<index> both) : packed_starts(integers(both)) {}
  template <class List>
    requires(!std::is_same_v<std::remove_cvref_t<List>, packed_starts> &&
             std::is_constructible_v<integers, List>)
  packed_starts(List&& both)  // NOLINT(google-explicit-constructor): as above
      : packed_starts(integers(std::forward<List>(both))) {}
  /// @}
  /// Queries and keys each have their own.
  packed_starts(integers of_query, integers of_key) : query(of_query), key(of_key) {}
};

namespace detail {

/// Keys and values of packed sequences.
template <class T>
class packed_keys {
 public:
  packed_keys(const heads_view<const T>& key, const heads_view<const T>& value,
              const integers& starts)
      : key_(key), value_(value), starts_(starts) {}

  [[nodiscard]] index batch() const { return starts_.size() - 1; }
  [[nodiscard]] index heads() const { return key_.heads(); }
  [[nodiscard]] index key_width() const { return key_.width(); }
  [[nodiscard]] index value_width() const { return value_.width(); }
  [[nodiscard]] index before(index b) const { return starts_[b]; }
  [[nodiscard]] stored_keys<T> sequence(index b) const {
    return keys_in(key_, value_, b, before(b), starts_[b + 1] - starts_[b]);
  }
  [[nodiscard]] index longest() const {
    index most = 0;
    for (index b = 0; b < batch(); ++b) most = std::max(most, starts_[b + 1] - starts_[b]);
    return most;
  }

 private:
  heads_view<const T> key_;
  heads_view<const T> value_;
  integers starts_;
};

inline void check_starts(std::string_view name, const integers& starts, index tokens) {
  require(starts.size() >= 1, name, " is empty, it should have a number more than sequences");
  require(starts[0] == 0, name, " begins with ", starts[0],
          ", it should begin with 0 (it says where sequences start, not how long they are)");
  for (index b = 0; b + 1 < starts.size(); ++b) {
    require(starts[b] <= starts[b + 1], name, " decreases from ", starts[b], " to ", starts[b + 1],
            " at sequence ", b);
  }
  const index last = starts[starts.size() - 1];
  require(last == tokens, name, " ends with ", last, ", it should end with the ", tokens,
          " tokens there are");
}

template <class T>
void check_packed(std::string_view name, const heads_view<const T>& view) {
  require(view.batch() == 1, name, " has ", view.batch(),
          " sequences, packed ones should be tokens of a single one");
}

/// What query, key, value and starts must agree in.
template <class T>
void check_packed_call(const heads_view<const T>& query, const heads_view<const T>& key,
                       const heads_view<const T>& value, const packed_starts& starts,
                       const options& options) {
  check_packed("query", query);
  check_packed("key", key);
  check_packed("value", value);
  check_keys_and_values(key, value);
  check_starts("starts.query", starts.query, query.length());
  check_starts("starts.key", starts.key, key.length());
  require(starts.key.size() == starts.query.size(), "starts.key has ", starts.key.size(),
          " numbers, starts.query has ", starts.query.size());
  require(!options.key_lengths && !options.query_lengths && options.padding == padding::right,
          "options.key_lengths, query_lengths and padding are not for packed sequences: their "
          "starts say how long they are");
  require(!options.weights,
          "options.weights is not for packed sequences, whose weights have no common shape");
}

template <class T, class M, class F>
void packed_attention(const output& out, const heads_view<const T>& query,
                      const heads_view<const T>& key, const heads_view<const T>& value,
                      const packed_starts& starts, const M& mask, const F& score_mod,
                      const options& options) {
  static_assert(has_kernel<T>,
                "attn: packed sequences are for float and double. Call sequence by sequence for "
                "other types.");
  check_packed_call(query, key, value, starts, options);
  const packed_keys<T> stored(key, value, starts.key);
  heads_call<T, packed_keys<T>> call{query, stored, options, starts.query};
  check_heads(call, "key");
  check_rules(call, stored.longest(), mask, score_mod);

  call_outputs outputs;
  outputs.add_input("query", query);
  outputs.add_input("key", key);
  outputs.add_input("value", value);
  constexpr index no_weights = 0;
  check_outputs(outputs, call, out, no_weights, mask, score_mod);
  open_outputs(call, out, no_weights);
  attend_heads(call, mask, score_mod);
}

}  // namespace detail

/// Attention of packed sequences: every query sees keys of its own sequence only, and positions,
/// alignment and lengths are those within it.
///
/// query: 1 x H x (all queries) x d, key and value likewise, as `split_heads` makes of matrices
/// with a row a token; `position::batch` is the number of the sequence and `row`, `key` count
/// within it, as do the columns of a mask in memory. Returns 1 x H x (all queries) x dv;
/// options.log_sum_exp is 1 x H x (all queries) x 1. float and double.
///
/// Takes as long as the pairs that exist. Throws std::invalid_argument as the call on heads does,
/// and where starts do not begin with 0, decrease, or do not end with the number of tokens.
template <detail::HeadsOrMatrix Q, detail::HeadsOrMatrix K, detail::HeadsOrMatrix V, class M,
          class F>
  requires(!std::is_same_v<F, options>)
auto packed_attention(const Q& query, const K& key, const V& value, const packed_starts& starts,
                      M&& mask, const F& score_mod, const attn::options& options = {}) {
  if constexpr (detail::require_heads<Q, K, V>()) {
    using T = detail::heads_scalar<Q>;
    const auto q = detail::as_heads(query);
    heads_array<T> out({0, 0, 0, 0}, detail::order_of(q));
    detail::packed_attention<T>(out, q, detail::as_heads(key), detail::as_heads(value), starts,
                                as_mask(mask), score_mod, options);
    return out;
  }
}

/// The same without a score change.
template <detail::HeadsOrMatrix Q, detail::HeadsOrMatrix K, detail::HeadsOrMatrix V, class M>
  requires(!std::is_same_v<std::remove_cvref_t<M>, options>)
auto packed_attention(const Q& query, const K& key, const V& value, const packed_starts& starts,
                      M&& mask, const attn::options& options = {}) {
  return packed_attention(query, key, value, starts, mask, identity{}, options);
}

/// The same without a mask.
template <detail::HeadsOrMatrix Q, detail::HeadsOrMatrix K, detail::HeadsOrMatrix V>
auto packed_attention(const Q& query, const K& key, const V& value, const packed_starts& starts,
                      const attn::options& options = {}) {
  return packed_attention(query, key, value, starts, none{}, identity{}, options);
}

/// The same into memory of the caller's, a view or an array.
template <detail::HeadsOrMatrix Q, detail::HeadsOrMatrix K, detail::HeadsOrMatrix V, class M,
          class F>
  requires(!std::is_same_v<F, options>)
void packed_attention_into(const output& out, const Q& query, const K& key, const V& value,
                           const packed_starts& starts, M&& mask, const F& score_mod,
                           const attn::options& options = {}) {
  if constexpr (detail::require_heads<Q, K, V>()) {
    detail::require(static_cast<bool>(out),
                    "out is nothing: it should be a heads_view or heads_array");
    detail::packed_attention<detail::heads_scalar<Q>>(
        out, detail::as_heads(query), detail::as_heads(key), detail::as_heads(value), starts,
        as_mask(mask), score_mod, options);
  }
}

/// The same without a score change.
template <detail::HeadsOrMatrix Q, detail::HeadsOrMatrix K, detail::HeadsOrMatrix V, class M>
  requires(!std::is_same_v<std::remove_cvref_t<M>, options>)
void packed_attention_into(const output& out, const Q& query, const K& key, const V& value,
                           const packed_starts& starts, M&& mask,
                           const attn::options& options = {}) {
  packed_attention_into(out, query, key, value, starts, mask, identity{}, options);
}

/// The same without a mask.
template <detail::HeadsOrMatrix Q, detail::HeadsOrMatrix K, detail::HeadsOrMatrix V>
void packed_attention_into(const output& out, const Q& query, const K& key, const V& value,
                           const packed_starts& starts, const attn::options& options = {}) {
  packed_attention_into(out, query, key, value, starts, none{}, identity{}, options);
}

}  // namespace attn::inline ATTN_ABI
