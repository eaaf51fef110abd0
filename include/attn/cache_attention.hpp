// Attention of new queries to the keys and values of a cache, read where they lie.
#pragma once

#include <attn/heads_call.hpp>
#include <attn/kv_cache.hpp>

namespace attn::inline ATTN_ABI {
namespace detail {

/// Throws where an output overlaps what a sequence has in a cache.
template <class T>
void require_apart(const call_outputs& outputs, const stored_keys<T>& keys, index heads,
                   index key_width, index value_width) {
  if (keys.length <= keys.first || heads == 0) return;
  const index first = keys.first / keys.piece;
  const index last = (keys.length - 1) / keys.piece;
  const auto page = [&](index n) { return keys.table == nullptr ? 0 : index{keys.table[n]}; };
  const index rows = std::min(keys.piece, keys.length);
  const auto bytes = [&](const T* data, index width, const heads_strides& by) {
    return footprint_of(heads_view<const T>(data, {1, heads, rows, width}, by));
  };
  const auto check = [&](const T* data, index width, index page_stride, const heads_strides& by) {
    if (width == 0) return;
    const auto of_page = [&](index n) { return bytes(data + page(n) * page_stride, width, by); };
    if (keys.table == nullptr) return outputs.require_apart_from("the cache", of_page(first));
    // Seldom does anything lie between the first and the last of the pages in memory: then it is
    // looked at page by page.
    const auto [low, high] = std::minmax_element(keys.table + first, keys.table + last + 1);
    const footprint one = of_page(low - keys.table), other = of_page(high - keys.table);
    const auto begin = std::min(one.begin, other.begin), end = std::max(one.end, other.end);
    if (!outputs.overlap({begin, end, 0, end - begin})) return;
    for (index n = first; n <= last; ++n) outputs.require_apart_from("the cache", of_page(n));
  };
  check(keys.key, key_width, keys.key_page, {0, keys.key_head, keys.key_row, keys.key_col});
  check(keys.value, value_width, keys.value_page,
        {0, keys.value_head, keys.value_row, keys.value_col});
}

/// A ring: each query sees so many keys at most.
template <class Cache>
concept Windowed = requires(const Cache cache) {
  { cache.window() } -> std::convertible_to<index>;
};

/// What a call reads of a cache, of which a single sequence serves all of a batch.
template <class Cache>
struct cached_keys {
  const Cache& cache;
  index calls_batch;

  [[nodiscard]] index batch() const { return cache.batch() == 1 ? calls_batch : cache.batch(); }
  [[nodiscard]] index heads() const { return cache.heads(); }
  [[nodiscard]] index key_width() const { return cache.key_width(); }
  [[nodiscard]] index value_width() const { return cache.value_width(); }
  [[nodiscard]] index before(index) const { return 0; }
  [[nodiscard]] auto sequence(index b) const { return cache.sequence(cache.batch() == 1 ? 0 : b); }
};

/// Throws where a query would see what is no longer there.
template <class T, class Stored, class M>
void check_all_there(const heads_call<T, Stored>& call, const M& mask) {
  for (index b = 0; b < call.batch(); ++b) {
    const index first = call.stored.sequence(b).first;
    const call_shape shape = call.shape(b);
    if (first == 0 || shape.queries == 0) continue;
    for (std::int32_t h = 0; h < call.query.heads(); ++h) {
      const tile gone{static_cast<std::int32_t>(b),    h, 0, shape.offset, 0, shape.queries,
                      static_cast<std::int32_t>(first)};
      require(mask.cover(gone) == coverage::none, "queries of sequence ", b, " stand at positions ",
              shape.offset, " ... ", gone.last_query(),
              " and see what the ring_cache has overwritten, keys before position ", first,
              ": attend with the tokens appended last, by attn::bottom_right, or give it more "
              "capacity");
    }
  }
}

template <class T, class Cache, class M, class F>
void masked_cache_attention(const output& out, const heads_view<const T>& query, const Cache& cache,
                            const M& mask, const F& score_mod, const options& options) {
  static_assert(std::is_same_v<typename Cache::value_type, T>,
                "attn: query and cache should have one scalar type.");
  static_assert(has_kernel<T>, "attn: attention to a cache is for float and double.");
  const heads_shape& n = query.shape();
  check_lengths("options.query_lengths", options.query_lengths, n.batch, n.length);
  require(!options.key_lengths,
          "options.key_lengths is not for a cache, which knows its lengths: truncate it");
  const cached_keys<Cache> stored{cache, n.batch};
  heads_call<T, cached_keys<Cache>> call{query, stored, options};
  check_heads(call, "cache");
  index longest = 0;
  for (index b = 0; b < cache.batch(); ++b) longest = std::max(longest, cache.sequence(b).length);
  check_rules(call, longest, mask, score_mod);
  if constexpr (Windowed<Cache>) check_all_there(call, mask);

  call_outputs outputs;
  outputs.add_input("query", query);
  check_outputs(outputs, call, out, longest, mask, score_mod);
  for (index b = 0; b < cache.batch(); ++b) {
    require_apart(outputs, cache.sequence(b), cache.heads(), cache.key_width(),
                  cache.value_width());
  }
  open_outputs(call, out, longest);
  attend_heads(call, mask, score_mod);
}

/// The same within the window of a cache that has one: else what else there happens to be would
/// depend on how many tokens came at once.
template <class T, class Cache, class M, class F>
void cache_attention(const output& out, const heads_view<const T>& query, const Cache& cache,
                     const M& mask, const F& score_mod, const options& options) {
  if constexpr (Windowed<Cache>) {
    masked_cache_attention<T>(out, query, cache, mask & sliding_window(cache.window() - 1, 0),
                              score_mod, options);
  } else {
    masked_cache_attention<T>(out, query, cache, mask, score_mod, options);
  }
}

}  // namespace detail

/// Attention of B x H x Lq x d queries to everything in a cache of B sequences, or of one that
/// serves all, whose own number of heads divides H. With `bottom_right` the last query of each
/// sequence stands at its last key, which is what it should be after its own key has been appended;
/// a batch that is padded has options.query_lengths, and options.padding. Of a ring each query sees
/// what the mask shows it within the ring's window, so that positions count: give the alignment.
/// Key positions are counted from the first token ever appended.
///
/// Returns B x H x Lq x (value width). A mask in memory has as many keys as the longest sequence.
/// Throws std::invalid_argument as the call on heads does, and where a query would see what a ring
/// has overwritten, since it stands before the tokens appended last. float and double.
template <detail::HeadsOrMatrix Q, KeyValueCache Cache, class M, class F>
  requires(!std::is_same_v<F, options>)
auto scaled_dot_product_attention(const Q& query, const Cache& cache, M&& mask, const F& score_mod,
                                  const attn::options& options = {}) {
  if constexpr (detail::require_heads<Q>()) {
    using T = detail::heads_scalar<Q>;
    const auto q = detail::as_heads(query);
    heads_array<T> out({0, 0, 0, 0}, detail::order_of(q));
    detail::cache_attention<T>(out, q, cache, as_mask(mask), score_mod, options);
    return out;
  }
}

/// The same without a score change.
template <detail::HeadsOrMatrix Q, KeyValueCache Cache, class M>
  requires(!std::is_same_v<std::remove_cvref_t<M>, options>)
auto scaled_dot_product_attention(const Q& query, const Cache& cache, M&& mask,
                                  const attn::options& options = {}) {
  return scaled_dot_product_attention(query, cache, mask, identity{}, options);
}

/// The same without a mask.
template <detail::HeadsOrMatrix Q, KeyValueCache Cache>
auto scaled_dot_product_attention(const Q& query, const Cache& cache,
                                  const attn::options& options = {}) {
  return scaled_dot_product_attention(query, cache, none{}, identity{}, options);
}

/// The same into memory of the caller's, a view or an array. With a workspace in the options, a
/// call after the first of its kind allocates nothing on the calling thread, however many tokens
/// are appended, but where one of a batch has more of a page_pool's tokens than its share, or a
/// mask that owns a list (`documents`, `block_mask`) is joined with a ring's window.
template <detail::HeadsOrMatrix Q, KeyValueCache Cache, class M, class F>
  requires(!std::is_same_v<F, options>)
void scaled_dot_product_attention_into(const output& out, const Q& query, const Cache& cache,
                                       M&& mask, const F& score_mod,
                                       const attn::options& options = {}) {
  detail::require(static_cast<bool>(out),
                  "out is nothing: it should be a heads_view or heads_array");
  if constexpr (detail::require_heads<Q>()) {
    detail::cache_attention<detail::heads_scalar<Q>>(out, detail::as_heads(query), cache,
                                                     as_mask(mask), score_mod, options);
  }
}

/// The same without a score change.
template <detail::HeadsOrMatrix Q, KeyValueCache Cache, class M>
  requires(!std::is_same_v<std::remove_cvref_t<M>, options>)
void scaled_dot_product_attention_into(const output& out, const Q& query, const Cache& cache,
                                       M&& mask, const attn::options& options = {}) {
  scaled_dot_product_attention_into(out, query, cache, mask, identity{}, options);
}

/// The same without a mask.
template <detail::HeadsOrMatrix Q, KeyValueCache Cache>
void scaled_dot_product_attention_into(const output& out, const Q& query, const Cache& cache,
                                       const attn::options& options = {}) {
  scaled_dot_product_attention_into(out, query, cache, none{}, identity{}, options);
}

}  // namespace attn::inline ATTN_ABI
