// What caches of keys and values are made of: memory for tokens, and all that is the same whether
// they lie side by side, in a ring or in pages.
#pragma once

#include <algorithm>
#include <attn/heads.hpp>
#include <attn/integers.hpp>
#include <attn/memory_overlap.hpp>
#include <attn/position.hpp>
#include <attn/stored_keys.hpp>
#include <new>
#include <optional>
#include <type_traits>
#include <vector>

namespace attn::inline ATTN_ABI {

namespace detail {

/// Starts at a multiple of 64 bytes: no vector of a row whose size is one too lies on two lines.
template <class T>
struct line_allocator {
  using value_type = T;
  static constexpr std::align_val_t alignment{std::max<std::size_t>(64, alignof(T))};

  line_allocator() = default;
  template <class U>
  line_allocator(const line_allocator<U>&) {}  // NOLINT(google-explicit-constructor): allocators do

  T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), alignment)); }
  void deallocate(T* memory, std::size_t) { ::operator delete(memory, alignment); }
  friend bool operator==(const line_allocator&, const line_allocator&) { return true; }
};

/// Elements that share a cache line.
template <class T>
inline constexpr index per_line = std::max<index>(1, 64 / index{sizeof(T)});

/// Zeros, as many as the shape has elements. They are written now, not when first used: no append
/// waits for the system to find memory, and what is beyond a length is a number, should it be read.
template <class T>
std::vector<T, line_allocator<T>> zeroed_memory(std::string_view name, const heads_shape& shape) {
  const index size = checked_size(name, shape, sizeof(T));
  return std::vector<T, line_allocator<T>>(static_cast<std::size_t>(size), T(0));
}

/// What is appended: of each sequence `counts` tokens, all where there are no counts.
template <class T>
struct new_tokens {
  heads_view<const T> key;
  heads_view<const T> value;
  integers counts = {};
  padding side = padding::right;

  [[nodiscard]] index count(index b) const { return counts ? counts[b] : key.length(); }
  [[nodiscard]] index first(index b) const { return rows_before(key.length(), count(b), side); }
};

/// n rows of `width` elements, to rows one after the other.
template <class T>
void copy_rows(const T* from, const heads_strides& step, index n, index width, T* to) {
  if (step.col == 1 && (step.row == width || n == 1)) {
    std::copy_n(from, n * width, to);
  } else if (step.col == 1) {
    for (index i = 0; i < n; ++i) std::copy_n(from + i * step.row, width, to + i * width);
  } else {
    // A column-major matrix has a feature of consecutive tokens on one cache line: the 64 bytes are
    // used up while they are at hand, and the rows written to are few enough to stay at hand too.
    for (index first = 0; first < n; first += per_line<T>) {
      const index last = std::min(n, first + per_line<T>);
      for (index c = 0; c < width; ++c) {
        for (index i = first; i < last; ++i) {
          to[i * width + c] = from[i * step.row + c * step.col];
        }
      }
    }
  }
}

/// What lies side by side in memory: the heads of a block, or the blocks of a head.
enum class adjacent { heads, blocks };

/// Keys, or values, of `batch` blocks, each of heads x length rows; a block is what one sequence
/// has, or a page.
template <class T>
class token_blocks {
 public:
  token_blocks(std::string_view name, const heads_shape& shape, adjacent order)
      : elements_(zeroed_memory<T>(name, shape)), shape_(shape), strides_(bhld_strides(shape)) {
    require(shape.heads >= 1, name, " has ", shape.heads, " heads, it should be at least 1");
    if (order == adjacent::blocks) {
      strides_.batch = strides_.head;
      strides_.head *= shape.batch;
    }
  }

  [[nodiscard]] const heads_shape& shape() const { return shape_; }
  [[nodiscard]] const T* data() const { return elements_.data(); }
  [[nodiscard]] T* data() { return elements_.data(); }
  [[nodiscard]] std::size_t bytes() const { return elements_.size() * sizeof(T); }
  [[nodiscard]] footprint memory() const {
    const auto begin = reinterpret_cast<std::uintptr_t>(data());
    return {begin, begin + bytes(), 0, bytes()};
  }
  /// From block to block (`batch`), head to head and row to row.
  [[nodiscard]] const heads_strides& strides() const { return strides_; }
  [[nodiscard]] heads_view<T> view() { return {data(), shape_, strides_}; }
  [[nodiscard]] heads_view<const T> view() const { return {data(), shape_, strides_}; }

  /// Tokens [first, first + n) of sequence b of a view, to the rows from `row` on of a block.
  void write(index block, index row, const heads_view<const T>& from, index b, index first,
             index n) {
    if (shape_.width == 0) return;
    const heads_strides& step = from.strides();
    const T* const source = from.data() + b * step.batch + first * step.row;
    T* const to = data() + block * strides_.batch + row * strides_.row;
    for (index h = 0; h < shape_.heads; ++h) {
      T* const rows = to + h * strides_.head;
      prefetch(rows);
      copy_rows(source + h * step.head, step, n, shape_.width, rows);
    }
  }

  /// The first n rows of a block, to another.
  void copy(index to, index from, index n) {
    T* const block = data() + to * strides_.batch;
    const T* const source = data() + from * strides_.batch;
    for (index h = 0; h < shape_.heads; ++h) {
      std::copy_n(source + h * strides_.head, n * shape_.width, block + h * strides_.head);
    }
  }

 private:
  /// All of a row is asked for at once, and a processor goes on to the next head's before the first
  /// is there. They are too far apart for hardware to foresee: a token for each of 32 sequences
  /// took twice as long.
  void prefetch(const T* row) const {
    for (index c = 0; c < shape_.width; c += per_line<T>) ATTN_PREFETCH(row + c, 3);
  }

  std::vector<T, line_allocator<T>> elements_;
  heads_shape shape_;
  heads_strides strides_;
};

/// The blocks of keys and those of values.
template <class T>
struct stored_tokens {
  token_blocks<T> key;
  token_blocks<T> value;

  stored_tokens(std::string_view name, const heads_shape& shape, std::optional<index> value_width,
                adjacent order = adjacent::heads)
      : key(name, shape, order),
        value(name, {shape.batch, shape.heads, shape.length, value_width.value_or(shape.width)},
              order) {}

  [[nodiscard]] std::size_t bytes() const { return key.bytes() + value.bytes(); }

  /// How to read `length` tokens that start in a block, of as many as it has rows.
  [[nodiscard]] stored_keys<T> at(index block, index length) const {
    return {.key = key.data() + block * key.strides().batch,
            .value = value.data() + block * value.strides().batch,
            .key_head = key.strides().head,
            .key_row = key.strides().row,
            .value_head = value.strides().head,
            .value_row = value.strides().row,
            .length = length,
            .capacity = key.shape().length};
  }
};

struct token_place {
  index block;
  index row;
};

/// What the caches have in common. A Cache has, for this class only:
/// `make_room(first, tokens)`, called before anything is written: sequences first, first + 1, …
/// will be appended to; it throws where they cannot be and has then changed nothing;
/// `place(b, position)`, the block and row of that token, and `tokens()`, the blocks themselves;
/// and where it needs to, `check_cut(b, length)`, which throws, and `cut(b, length)`, which does
/// not.
template <class Cache, class T>
class growing_cache {
 public:
  using value_type = T;

  /// Sequences.
  [[nodiscard]] index batch() const { return std::ssize(lengths_); }
  /// Heads of key and value.
  [[nodiscard]] index heads() const { return heads_; }
  /// Features of a key.
  [[nodiscard]] index key_width() const { return key_width_; }
  /// Features of a value.
  [[nodiscard]] index value_width() const { return value_width_; }
  /// Tokens a sequence has had, without those that were truncated: the position of the next.
  /// Throws std::invalid_argument where there is no sequence b.
  [[nodiscard]] index length(index b) const {
    check_sequence(b);
    return lengths_[static_cast<std::size_t>(b)];
  }
  /// The lengths of all sequences.
  [[nodiscard]] const std::vector<index>& lengths() const { return lengths_; }

  /// Appends n tokens to each sequence. key: batch x heads x n x key_width, value: batch x heads x
  /// n x value_width; views or arrays in any order of memory. Throws std::invalid_argument where
  /// shapes differ or that memory is the cache's own or its pool's, and std::length_error where
  /// there is no room; the cache is then as before. Allocates nothing.
  template <class K, class V>
  void append(const K& key, const V& value) {
    append_to(0, batch(), {view(key), view(value)});
  }

  /// As above, for sequences that have different numbers of new tokens: of the n in key and value
  /// the first counts[b] are those of sequence b (`padding::right`), or the last (`padding::left`).
  /// The others are neither read nor stored. Throws std::invalid_argument for counts that are not
  /// one a sequence, each within 0 … n.
  template <HeadsOrMatrix K, class V>
  void append(const K& key, const V& value, const integers& counts, padding side = padding::right) {
    append_to(0, batch(), {view(key), view(value), counts, side});
  }

  /// Appends to one sequence. key: 1 x heads x n x key_width, value: 1 x heads x n x value_width.
  /// Throws as above, and std::invalid_argument where there is no sequence b.
  template <HeadsOrMatrix K, class V>
  void append(index b, const K& key, const V& value) {
    check_sequence(b);
    append_to(b, 1, {view(key), view(value)});
  }

  /// Takes back the tokens of sequence b from position `length` on. Throws std::invalid_argument
  /// where there are not as many, or no sequence b.
  void truncate(index b, index length) {
    check_sequence(b);
    const index now = length_of(b);
    require(length >= 0 && length <= now, "truncate to length ", length, ": sequence ", b, " has ",
            now);
    self().check_cut(b, length);
    self().cut(b, length);
    length_of(b) = length;
  }

  /// As above, for every sequence; those that are not as long stay as they are.
  void truncate(index length) {
    require(length >= 0, "truncate to length ", length, ": it should be at least 0");
    for (index b = 0; b < batch(); ++b) self().check_cut(b, std::min(length, length_of(b)));
    for (index b = 0; b < batch(); ++b) truncate(b, std::min(length, length_of(b)));
  }

  /// Takes back everything.
  void clear() { truncate(0); }

 protected:
  void check_sequence(index b) const {
    require(b >= 0 && b < batch(), "sequence ", b, " is not within the ", batch(),
            " of this cache");
  }
  void check_cut(index, index) const {}
  void cut(index, index) {}

  [[nodiscard]] index& length_of(index b) { return lengths_[static_cast<std::size_t>(b)]; }
  [[nodiscard]] index length_of(index b) const { return lengths_[static_cast<std::size_t>(b)]; }

 private:
  friend Cache;

  growing_cache(std::string_view name, index batch, const stored_tokens<T>& tokens)
      : heads_(tokens.key.shape().heads),
        key_width_(tokens.key.shape().width),
        value_width_(tokens.value.shape().width),
        rows_(tokens.key.shape().length) {
    require(batch >= 0, name, " has ", batch, " sequences, it should be at least 0");
    lengths_.resize(static_cast<std::size_t>(batch));
  }

  Cache& self() { return static_cast<Cache&>(*this); }

  template <class V>
  static heads_view<const T> view(const V& tokens) {
    static_assert(HeadsLike<V>,
                  "attn: a cache takes views or arrays of heads: attn::split_heads(matrix, heads), "
                  "or attn::one_head(matrix), of a matrix that has a name.");
    if constexpr (HeadsLike<V>) {
      static_assert(std::is_same_v<typename decltype(as_heads(tokens))::value_type, T>,
                    "attn: a cache takes keys and values of its own element type: cast them "
                    "first.");
      return as_heads(tokens);
    } else {
      return {};
    }
  }

  void append_to(index first, index sequences, const new_tokens<T>& tokens) {
    check("key", tokens.key, sequences, key_width_);
    check("value", tokens.value, sequences, value_width_);
    const index length = tokens.key.length();
    require(tokens.value.length() == length, "value has ", tokens.value.length(),
            " tokens, key has ", length);
    if (tokens.counts) {
      require(tokens.counts.size() == sequences, "counts has ", tokens.counts.size(),
              " entries, the cache has ", sequences, " sequences");
    }
    for (index n = 0; n < sequences; ++n) {
      require(tokens.count(n) >= 0 && tokens.count(n) <= length, "counts[", n, "] is ",
              tokens.count(n), ", it should be within 0 ... ", length);
    }
    check_is_apart("key", tokens.key);
    check_is_apart("value", tokens.value);
    self().make_room(first, tokens);
    for (index n = 0; n < sequences; ++n) store(first + n, n, tokens);
  }

  void check(std::string_view name, const heads_view<const T>& tokens, index sequences,
             index width) const {
    const heads_shape& shape = tokens.shape();
    require(shape.batch == sequences && shape.heads == heads_ && shape.width == width, name, " is ",
            shape.batch, " x ", shape.heads, " x ", shape.length, " x ", shape.width,
            ", it should be ", sequences, " x ", heads_, " x any x ", width,
            " (sequences, heads, tokens, features)");
  }

  void check_is_apart(std::string_view name, const heads_view<const T>& tokens) {
    if (tokens.shape().size() == 0) return;
    const footprint read = range_of(tokens);
    const stored_tokens<T>& mine = self().tokens();
    const bool inside =
        may_overlap(read, mine.key.memory()) || may_overlap(read, mine.value.memory());
    require(!inside, name, " lies in the memory of the cache or its pool: append a copy of it");
  }

  void store(index b, index from, const new_tokens<T>& tokens) {
    stored_tokens<T>& to = self().tokens();
    const index count = tokens.count(from), first = tokens.first(from), length = length_of(b);
    for (index done = 0; done < count;) {
      const auto [block, row] = self().place(b, length + done);
      const index run = std::min(count - done, rows_ - row);
      to.key.write(block, row, tokens.key, from, first + done, run);
      to.value.write(block, row, tokens.value, from, first + done, run);
      done += run;
    }
    length_of(b) += count;
  }

  index heads_;
  index key_width_;
  index value_width_;
  index rows_;  // of a block
  std::vector<index> lengths_;
};

}  // namespace detail

}  // namespace attn::inline ATTN_ABI
