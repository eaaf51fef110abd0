// A cache beside a plain list of tokens: what it should hold, and random operations on both.
#pragma once

#include <attn/paged_cache.hpp>
#include <string>

#include "support/catch.hpp"
#include "support/generate.hpp"

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

// The message of a refusal, empty where there is none.
template <class Error = std::invalid_argument, class F>
std::string message_of(const F& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

template <class Cache, class T, class Rules>
void random_append(generator& g, Cache& cache, truth<T>& model, Rules& rules) {
  const bool one = g.chance(0.3), counted = !one && g.chance(0.5), left = g.chance(0.5);
  const index n = g.chance(0.5) ? 1 : g.between(0, 9), batch = one ? 1 : model.batch();
  const index b = one ? g.between(0, model.batch() - 1) : 0;
  const scattered<T> key(g, {batch, model.heads, n, model.key_width});
  const scattered<T> value(g, {batch, model.heads, n, model.value_width});
  std::vector<index> counts(static_cast<std::size_t>(batch), n);
  if (counted) {
    for (index& count : counts) count = g.between(0, n);
  }
  const bool taken = rules.append(model, b, counts);
  const std::string refusal = message_of<std::length_error>([&] {
    if (one) {
      cache.append(b, key.view, value.view);
    } else if (counted) {
      cache.append(key.view, value.view, counts, left ? attn::padding::left : attn::padding::right);
    } else {
      cache.append(key.view, value.view);
    }
  });
  CHECK(refusal.empty() == taken);
  for (index s = 0; taken && s < batch; ++s) {
    const index count = counts[static_cast<std::size_t>(s)],
                first = counted && left ? n - count : 0;
    for (index i = first; i < first + count; ++i) {
      model.append(b + s, {key.token(s, i), value.token(s, i)});
    }
  }
}

template <class Cache, class T, class Rules>
void random_truncate(generator& g, Cache& cache, truth<T>& model, Rules& rules) {
  const index b = g.between(0, model.batch() - 1);
  const bool all = g.chance(0.3), nearly = g.chance(0.7);
  const index now = model.length(b), n = g.between(nearly ? std::max<index>(0, now - 4) : 0, now);
  const index first = all ? 0 : b, last = all ? model.batch() : b + 1;
  bool taken = true;
  for (index s = first; s < last; ++s) {
    taken = rules.truncate(model, s, std::min(n, model.length(s))) && taken;
  }
  const std::string refusal = message_of([&] { all ? cache.truncate(n) : cache.truncate(b, n); });
  CHECK(refusal.empty() == taken);
  for (index s = first; taken && s < last; ++s) model.truncate(s, std::min(n, model.length(s)));
}

// One operation after the other; `more` does and checks what only this kind of cache has.
template <class Cache, class T, class Rules, class F>
void hold_what_was_appended(generator& g, Cache& cache, truth<T> model, Rules rules,
                            const F& more) {
  for (int step = 0; step < 120; ++step) {
    const double dice = g.uniform(0, 1);
    if (dice < 0.7) {
      random_append(g, cache, model, rules);
    } else if (dice < 0.97) {
      random_truncate(g, cache, model, rules);
    } else {
      cache.clear();
      for (index b = 0; b < model.batch(); ++b) {
        rules.truncate(model, b, 0);
        model.truncate(b, 0);
      }
    }
    more(cache, model, rules);
    const auto first = [&](index b) { return rules.first(model, b); };
    INFO("step " << step);
    REQUIRE(difference(cache, model, first) == "");
  }
}

inline attn::kv_cache_shape any_cache(generator& g) {
  return {.batch = g.between(1, 4),
          .capacity = g.between(1, 24),
          .heads = g.between(1, 3),
          .key_width = g.between(0, 5),
          .value_width = g.chance(0.5) ? std::optional<index>() : g.between(0, 5)};
}

inline constexpr auto nothing_more = [](auto&...) {};

using array = attn::heads_array<float>;

// 1 x 1 x n x 1, the tokens' names being consecutive numbers.
inline array numbers(float first, index n, index batch = 1) {
  array a({batch, 1, n, 1});
  for (index i = 0; i < a.shape().size(); ++i) a.data()[i] = first + static_cast<float>(i);
  return a;
}

template <class Cache>
std::vector<float> keys_of(const Cache& cache, index b) {
  const stored_keys<float> stored = cache.sequence(b);
  std::vector<float> keys;
  for (index j = stored.first; j < stored.length; ++j) {
    keys.push_back(read(stored, true, 1, 1, j)[0]);
  }
  return keys;
}

using floats = std::vector<float>;

inline std::shared_ptr<attn::page_pool<float>> pool_of(index pages, index page_size) {
  return std::make_shared<attn::page_pool<float>>(
      attn::page_pool_shape{.key_width = 1, .page_size = page_size, .pages = pages});
}

}  // namespace attn_test
