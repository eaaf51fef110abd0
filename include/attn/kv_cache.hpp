// Caches of keys and values for decoding: tokens are appended as they come and read in place. One
// that holds all of them side by side, and a ring for windows; paged_cache.hpp has those in pages.
#pragma once

#include <attn/growing_cache.hpp>

namespace attn::inline ATTN_ABI {

/// What attention reads keys and values through: a batch of sequences, each with a length of its
/// own. Positions are absolute: they count all tokens of a sequence, also those no longer there.
template <class C>
concept KeyValueCache = requires(const C cache, index b) {
  typename C::value_type;                                 // what keys and values are made of
  { cache.batch() } -> std::convertible_to<index>;        // sequences
  { cache.heads() } -> std::convertible_to<index>;        // heads of key and value
  { cache.key_width() } -> std::convertible_to<index>;    // features of a key
  { cache.value_width() } -> std::convertible_to<index>;  // features of a value
  { cache.length(b) } -> std::convertible_to<index>;      // the position of the next token
  { cache.sequence(b) } -> std::same_as<stored_keys<typename C::value_type>>;  // where they lie
};

/// The shape of a cache: `{.batch = 2, .capacity = 4096, .heads = 8, .key_width = 128}`.
struct kv_cache_shape {
  /// Sequences.
  index batch = 1;
  /// Tokens that there is memory for, a sequence.
  index capacity = 0;
  /// Heads of key and value, which may be fewer than those of the query.
  index heads = 1;
  /// Features of a key.
  index key_width = 0;
  /// Features of a value; by default `key_width`.
  std::optional<index> value_width = std::nullopt;
};

/// All tokens of a sequence side by side, a head after the other: batch x heads x capacity x width,
/// taken at once.
template <class T>
class contiguous_cache : public detail::growing_cache<contiguous_cache<T>, T> {
  using base = detail::growing_cache<contiguous_cache, T>;
  friend base;

 public:
  /// Empty sequences. Throws std::invalid_argument for a negative extent or no heads, and
  /// std::length_error for more elements than there are addresses for.
  explicit contiguous_cache(const kv_cache_shape& shape)
      : contiguous_cache(shape, {"contiguous_cache",
                                 {shape.batch, shape.heads, shape.capacity, shape.key_width},
                                 shape.value_width}) {}

  /// Tokens that there is memory for, a sequence.
  [[nodiscard]] index capacity() const { return tokens_.key.shape().length; }
  /// Bytes of the memory for keys and values.
  [[nodiscard]] std::size_t bytes() const { return tokens_.bytes(); }

  /// Where the tokens of sequence b lie: positions 0 … length(b) - 1. Holds until the cache
  /// changes. Throws std::invalid_argument where there is no sequence b.
  [[nodiscard]] stored_keys<T> sequence(index b) const { return tokens_.at(b, this->length(b)); }

 private:
  contiguous_cache(const kv_cache_shape& shape, detail::stored_tokens<T>&& tokens)
      : base("contiguous_cache", shape.batch, tokens), tokens_(std::move(tokens)) {}

  void make_room(index first, const detail::new_tokens<T>& tokens) const {
    for (index n = 0; n < tokens.key.batch(); ++n) {
      const index length = this->length_of(first + n);
      detail::require_room(tokens.count(n) <= capacity() - length, "contiguous_cache has room for ",
                           capacity(), " tokens, sequence ", first + n, " has ", length, " and ",
                           tokens.count(n), " new ones");
    }
  }
  [[nodiscard]] detail::token_place place(index b, index position) const { return {b, position}; }
  [[nodiscard]] detail::stored_tokens<T>& tokens() { return tokens_; }

  detail::stored_tokens<T> tokens_;
};

/// The latest tokens of a sequence, for attention through a window, which calls on it keep to
/// whatever their mask: the token at position j lies in slot j % capacity, and overwrites the one
/// that lay there. Memory as of a contiguous_cache. What
/// `truncate` leaves is enough for the next token; a query at the last token that is left may lack
/// the first key of its window.
template <class T>
class ring_cache : public detail::growing_cache<ring_cache<T>, T> {
  using base = detail::growing_cache<ring_cache, T>;
  friend base;

 public:
  /// Empty sequences. `window` keys, its own included, can each query see: a `sliding_window(left,
  /// 0)` has left + 1. So many are there for each of n tokens that are appended at once, for which
  /// `capacity` is to be at least window + n - 1. Throws std::invalid_argument for a negative
  /// extent, no heads, or a window not within 1 … capacity; std::length_error for more elements
  /// than there are addresses for.
  ring_cache(const kv_cache_shape& shape, index window)
      : ring_cache(shape, window,
                   {"ring_cache",
                    {shape.batch, shape.heads, shape.capacity, shape.key_width},
                    shape.value_width}) {}

  /// Tokens that there is memory for, a sequence.
  [[nodiscard]] index capacity() const { return tokens_.key.shape().length; }
  /// Keys that each query can see, its own included.
  [[nodiscard]] index window() const { return window_; }
  /// Bytes of the memory for keys and values.
  [[nodiscard]] std::size_t bytes() const { return tokens_.bytes(); }

  /// Where the tokens of sequence b lie: positions first … length(b) - 1, where `first` is 0 until
  /// a token is overwritten. Holds until the cache changes. Throws std::invalid_argument where
  /// there is no sequence b.
  [[nodiscard]] stored_keys<T> sequence(index b) const {
    stored_keys<T> all = tokens_.at(b, this->length(b));
    all.piece = capacity();
    all.first = first(b);
    return all;
  }

 private:
  ring_cache(const kv_cache_shape& shape, index window, detail::stored_tokens<T>&& tokens)
      : base("ring_cache", shape.batch, tokens),
        window_(window),
        cut_(static_cast<std::size_t>(shape.batch)),
        tokens_(std::move(tokens)) {
    detail::require(window >= 1 && window <= shape.capacity, "ring_cache has a window of ", window,
                    ", it should be within 1 ... ", shape.capacity, ", the capacity");
  }

  [[nodiscard]] index first(index b) const {
    const index written = std::max(this->length_of(b), cut_[static_cast<std::size_t>(b)]);
    return std::max<index>(0, written - capacity());
  }

  void make_room(index, const detail::new_tokens<T>& tokens) const {
    for (index n = 0; n < tokens.key.batch(); ++n) {
      const index count = tokens.count(n);
      detail::require_room(count - 1 <= capacity() - window_, "ring_cache has ", capacity(),
                           " slots, a window of ", window_, " and ", count, " new tokens need ",
                           window_ + count - 1, ": append at most ", capacity() - window_ + 1,
                           " at once");
    }
  }
  [[nodiscard]] detail::token_place place(index b, index position) const {
    return {b, position % capacity()};
  }
  [[nodiscard]] detail::stored_tokens<T>& tokens() { return tokens_; }

  /// The next token's window is to be there, but for what lies before the sequence.
  void check_cut(index b, index length) const {
    const index least = first(b) == 0 ? 0 : first(b) + window_ - 1;
    detail::require(length == 0 || length >= least, "truncate to length ", length, ": sequence ", b,
                    " of this ring_cache has its tokens from position ", first(b),
                    " on, a window of ", window_, " needs a length of at least ", least,
                    ", or 0 to start anew");
  }
  void cut(index b, index length) {
    index& written = cut_[static_cast<std::size_t>(b)];
    written = length == 0 ? 0 : std::max(written, this->length_of(b));
  }

  index window_;
  std::vector<index> cut_;  // the longest each sequence was when it was truncated: what those
                            // tokens overwrote stays lost
  detail::stored_tokens<T> tokens_;
};

}  // namespace attn::inline ATTN_ABI
