// Caches beside a plain list of tokens: what each kind should hold, and which operations it takes.
#pragma once

#include <attn/paged_cache.hpp>
#include <string>

#include "support/generate.hpp"
#include "support/refusal.hpp"

namespace attn_test {

using attn::heads_shape, attn::heads_view, attn::stored_keys;

// All heads of a key and of a value.
template <class T>
struct token {
  std::vector<T> key, value;
};

// What a cache should hold. `longest` is the length up to which a sequence was ever written to.
template <class T>
struct truth {
  index heads, key_width, value_width;
  std::vector<std::vector<token<T>>> sequences;
  std::vector<index> longest;

  explicit truth(const attn::kv_cache_shape& n)
      : heads(n.heads),
        key_width(n.key_width),
        value_width(n.value_width.value_or(n.key_width)),
        sequences(static_cast<std::size_t>(n.batch)),
        longest(sequences.size()) {}

  index batch() const { return std::ssize(sequences); }
  index length(index b) const { return std::ssize(at(b)); }
  const std::vector<token<T>>& at(index b) const { return sequences[static_cast<std::size_t>(b)]; }
  index written(index b) const { return longest[static_cast<std::size_t>(b)]; }

  void append(index b, token<T> t) {
    const auto n = static_cast<std::size_t>(b);
    sequences[n].push_back(std::move(t));
    longest[n] = std::max(longest[n], length(b));
  }
  void truncate(index b, index n) {
    sequences[static_cast<std::size_t>(b)].resize(static_cast<std::size_t>(n));
    if (n == 0) longest[static_cast<std::size_t>(b)] = 0;
  }
};

// Numbers in any order of memory, with gaps: half of the time, a token's features side by side.
template <class T>
struct scattered {
  std::vector<T> memory;
  heads_view<const T> view;

  scattered(generator& g, const heads_shape& n) {
    const index extents[] = {n.batch, n.heads, n.length, n.width};
    index strides[] = {0, 0, 0, 1};
    std::vector<int> order{0, 1, 2};
    if (g.chance(0.5)) order.push_back(3);
    for (std::size_t i = order.size(); i > 1; --i) {
      std::swap(order[i - 1], order[static_cast<std::size_t>(g.between(0, std::ssize(order) - 1))]);
    }
    index step = order.size() == 3 ? n.width : 1;
    for (const int dimension : order) {
      step += g.chance(0.3) ? g.between(0, 3) : 0;
      strides[dimension] = step;
      step *= std::max<index>(1, extents[dimension]);
    }
    for (index i = 0; i < step; ++i) memory.push_back(T(static_cast<float>(g.between(-99, 99))));
    view = {memory.data(), n, {strides[0], strides[1], strides[2], strides[3]}};
  }

  std::vector<T> token(index b, index i) const {
    std::vector<T> values;
    for (index h = 0; h < view.heads(); ++h) {
      for (index c = 0; c < view.width(); ++c) values.push_back(view(b, h, i, c));
    }
    return values;
  }
};

// The keys, or values, of a token as `stored_keys` says where they lie.
template <class T>
std::vector<T> read(const stored_keys<T>& from, bool key, index heads, index width, index at) {
  const index n = at / from.piece, row = at % from.piece;
  const index page = from.table == nullptr ? 0 : from.table[n];
  std::vector<T> values;
  for (index h = 0; h < heads; ++h) {
    for (index c = 0; c < width; ++c) {
      values.push_back(key ? from.key[page * from.key_page + h * from.key_head +
                                      row * from.key_row + c * from.key_col]
                           : from.value[page * from.value_page + h * from.value_head +
                                        row * from.value_row + c * from.value_col]);
    }
  }
  return values;
}

// The first difference, in words; empty where there is none.
template <attn::KeyValueCache Cache, class T, class First>
std::string difference(const Cache& cache, const truth<T>& model, const First& first) {
  if (cache.batch() != model.batch()) return "batch";
  for (index b = 0; b < model.batch(); ++b) {
    const std::string name = "sequence " + std::to_string(b);
    const stored_keys<T> stored = cache.sequence(b);
    if (cache.length(b) != model.length(b)) return name + " has another length";
    if (stored.length != model.length(b)) return name + " says another length";
    if (stored.first != first(b)) return name + " starts at " + std::to_string(stored.first);
    for (index j = stored.first; j < stored.length; ++j) {
      const token<T>& expected = model.at(b)[static_cast<std::size_t>(j)];
      if (read(stored, true, model.heads, model.key_width, j) != expected.key ||
          read(stored, false, model.heads, model.value_width, j) != expected.value) {
        return name + " differs at position " + std::to_string(j);
      }
    }
  }
  return {};
}

// What each kind of cache takes. `append` and `truncate` are asked before the operation.
template <class T>
struct contiguous_rules {
  attn::kv_cache_shape shape;
  bool append(const truth<T>& model, index b, const std::vector<index>& counts) const {
    bool fits = true;
    for (const index count : counts) {
      fits = fits && model.length(b) + count <= shape.capacity;
      ++b;
    }
    return fits;
  }
  bool truncate(const truth<T>&, index, index) const { return true; }
  index first(const truth<T>&, index) const { return 0; }
};

template <class T>
struct ring_rules {
  attn::kv_cache_shape shape;
  index window;
  bool append(const truth<T>&, index, const std::vector<index>& counts) const {
    return *std::max_element(counts.begin(), counts.end()) + window - 1 <= shape.capacity;
  }
  bool truncate(const truth<T>& model, index b, index n) const {
    return n == 0 || first(model, b) <= std::max<index>(0, n - window + 1);
  }
  index first(const truth<T>& model, index b) const {
    return std::max<index>(0, model.written(b) - shape.capacity);
  }
};

// The pages of each sequence by names that are never used again.
template <class T>
struct paged_rules {
  index page_size, pages, capacity;
  std::vector<std::vector<int>> tables;
  int names = 0;

  index in_use() const {
    std::vector<int> all;
    for (const auto& table : tables) all.insert(all.end(), table.begin(), table.end());
    std::sort(all.begin(), all.end());
    return std::unique(all.begin(), all.end()) - all.begin();
  }
  index holders(int page) const {
    index n = 0;
    for (const auto& table : tables) n += std::count(table.begin(), table.end(), page);
    return n;
  }
  bool keep(bool fits, const std::vector<std::vector<int>>& before) {
    fits = fits && in_use() <= pages;
    if (!fits) tables = before;
    return fits;
  }
  bool append(const truth<T>& model, index b, const std::vector<index>& counts) {
    const auto before = tables;
    bool fits = true;
    for (const index count : counts) {
      const index length = model.length(b);
      auto& table = tables[static_cast<std::size_t>(b++)];
      if (count > 0 && length % page_size != 0 && holders(table.back()) > 1) table.back() = names++;
      while (std::ssize(table) * page_size < length + count) table.push_back(names++);
      fits = fits && length + count <= capacity;
    }
    return keep(fits, before);
  }
  bool truncate(const truth<T>&, index b, index n) {
    tables[static_cast<std::size_t>(b)].resize(
        static_cast<std::size_t>((n + page_size - 1) / page_size));
    return true;
  }
  bool fork(const truth<T>& model, index from, index to) {
    const auto before = tables;
    auto& table = tables[static_cast<std::size_t>(to)];
    if (from != to) table = tables[static_cast<std::size_t>(from)];
    if (from != to && model.length(from) % page_size != 0) table.back() = names++;
    return keep(true, before);
  }
  void reorder(truth<T>& model, const std::vector<index>& parents) {
    const auto sequences = model.sequences;
    const auto before = tables;
    for (std::size_t b = 0; b < parents.size(); ++b) {
      const auto parent = static_cast<std::size_t>(parents[b]);
      model.sequences[b] = sequences[parent];
      tables[b] = before[parent];
    }
  }
  index first(const truth<T>&, index) const { return 0; }
};

}  // namespace attn_test
