// A cache beside a plain list of tokens: random operations on both.
#pragma once

#include "support/cache_model.hpp"
#include "support/catch.hpp"

namespace attn_test {

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
