// Caches of keys and values as sequences of operations, those that must be refused among them, each
// beside a plain list of tokens; and attention to what they hold, beside plain loops.
#include <attn/cache_attention.hpp>

#include "fuzz/bytes.hpp"
#include "support/bounds.hpp"
#include "support/cache_model.hpp"

namespace attn_fuzz {
namespace {

using namespace attn_test;
using attn_fuzz::index;

// Tasks from the last to the first.
const attn::executor backwards = [](attn::index n, auto each) {
  for (attn::index i = n; i-- > 0;) each(i);
};

attn::kv_cache_shape any_shape(bytes& in) {
  attn::kv_cache_shape n{.batch = in.between(0, 3),
                         .capacity = in.between(0, 24),
                         .heads = in.between(1, 2),
                         .key_width = in.between(0, 5)};
  if (in.flag()) n.value_width = in.between(0, 9);
  if (in.flag()) n.capacity = 200 + in.between(0, 100);  // enough for another order of sums
  return n;
}

// One cache, what it should hold, and the operations on both.
template <class Cache, class T, class Rules>
class session {
 public:
  session(bytes& in, Cache cache, const attn::kv_cache_shape& n, Rules rules)
      : in_(in), g_(in.word()), cache_(std::move(cache)), model_(n), rules_(std::move(rules)) {}

  // `more` does what only this kind of cache can.
  template <class F>
  void run(const F& more) {
    for (int step = 0; step < 40 && !in_.empty(); ++step) {
      switch (in_.between(0, 9)) {
        case 0:
        case 1:
        case 2:
          append();
          break;
        case 3:
          truncate();
          break;
        case 4:
          attend(cache_);
          break;
        case 5:
          be_refused();
          break;
        case 6:
          cache_.clear();
          for (index b = 0; b < model_.batch(); ++b) empty(b);
          break;
        default:
          more(*this);
      }
      check(cache_);
    }
  }

  template <class C>
  void check(const C& cache) const {
    const auto first = [&](index b) { return rules_.first(model_, b); };
    const std::string text = difference(cache, model_, first);
    if (!text.empty()) fail(text);
  }

  // Attention of new queries, the last of them at each sequence's last key.
  template <class C>
  void attend(const C& cache) {
    const index groups = in_.between(1, 3), queries = in_.between(0, 9), left = in_.between(0, 40);
    const scattered<T> q(g_, {model_.batch(), model_.heads * groups, queries, model_.key_width});
    const attn::options options{.alignment = attn::bottom_right,
                                .executor = in_.flag() ? backwards : attn::executor(),
                                .reproducible = in_.flag(),
                                .scale = 1e-3};
    const bool masked = in_.flag();
    const index seen = masked ? std::min(left, before()) : before();  // keys before its own
    const auto call = [&] {
      if (!masked) return attn::scaled_dot_product_attention(q.view, cache, options);
      const auto mask = attn::sliding_window(left, 0);
      return attn::scaled_dot_product_attention(q.view, cache, mask, options);
    };
    if (lacks(queries, seen)) return refused(call);
    compare(q.view, call(), [=](place at) {
      return !(masked || attn::detail::Windowed<C>) ||
             (at.key <= at.query && at.key >= at.query - seen);
    });
  }

  bytes& in_;
  generator g_;
  Cache cache_;
  truth<T> model_;
  Rules rules_;

 private:
  index any_sequence() { return model_.batch() == 0 ? 0 : in_.between(0, model_.batch() - 1); }
  void empty(index b) {
    rules_.truncate(model_, b, 0);
    model_.truncate(b, 0);
  }

  template <class Call>
  void refused(const Call& call) const {
    require(throws<std::invalid_argument>(call), "bad input was not refused");
  }

  // How many keys before its own a query can see at most.
  index before() const {
    if constexpr (attn::detail::Windowed<Cache>) {
      return rules_.window - 1;
    } else {
      return std::numeric_limits<std::int32_t>::max();
    }
  }

  // Whether the first of the latest queries, which sees so many keys before its own, would see what
  // a ring no longer has.
  bool lacks(index queries, index seen) const {
    for (index b = 0; attn::detail::Windowed<Cache> && queries > 0 && b < model_.batch(); ++b) {
      const index first = rules_.first(model_, b);
      if (first > 0 && model_.length(b) - queries - seen < first) return true;
    }
    return false;
  }

  void append() {
    const std::uint8_t how = in_.byte();
    const bool one = (how & 1) != 0 && model_.batch() > 0, left = (how & 2) != 0;
    const bool counted = (how & 4) != 0 && !one;
    const index n = (how & 8) != 0 ? 1 : in_.between(0, (how & 16) != 0 ? 160 : 9);
    const index b = one ? any_sequence() : 0, batch = one ? 1 : model_.batch();
    const scattered<T> key(g_, {batch, model_.heads, n, model_.key_width});
    const scattered<T> value(g_, {batch, model_.heads, n, model_.value_width});
    std::vector<index> counts(static_cast<std::size_t>(batch), n);
    if (counted) {
      for (index& count : counts) count = in_.between(0, n);
    }
    const bool taken = counts.empty() || rules_.append(model_, b, counts);
    const bool refused = throws<std::length_error>([&] {
      if (one) {
        cache_.append(b, key.view, value.view);
      } else if (counted) {
        const auto side = left ? attn::padding::left : attn::padding::right;
        cache_.append(key.view, value.view, counts, side);
      } else {
        cache_.append(key.view, value.view);
      }
    });
    require(refused != taken, taken ? "an append was refused" : "an append was not refused");
    for (index s = 0; taken && s < batch; ++s) {
      const index count = counts[static_cast<std::size_t>(s)];
      const index first = counted && left ? n - count : 0;
      for (index i = first; i < first + count; ++i) {
        model_.append(b + s, {key.token(s, i), value.token(s, i)});
      }
    }
  }

  void truncate() {
    const bool all = in_.flag();
    const index b = any_sequence();
    const index now = model_.batch() == 0 ? 0 : model_.length(b);
    const index n = std::max<index>(0, now - in_.between(0, in_.flag() ? 255 : 6));
    if (model_.batch() == 0 && !all) return;
    const index first = all ? 0 : b, last = all ? model_.batch() : b + 1;
    const auto before = rules_;
    bool taken = true;
    for (index s = first; s < last; ++s) {
      taken = rules_.truncate(model_, s, std::min(n, model_.length(s))) && taken;
    }
    if (!taken) rules_ = before;
    const bool refused =
        throws<std::invalid_argument>([&] { all ? cache_.truncate(n) : cache_.truncate(b, n); });
    require(refused != taken, taken ? "a cut was refused" : "a cut was not refused");
    for (index s = first; taken && s < last; ++s) model_.truncate(s, std::min(n, model_.length(s)));
  }

  // What no cache takes, whatever it holds; it is as before then.
  void be_refused() {
    const index batch = model_.batch(), heads = model_.heads, n = in_.between(0, 3);
    const auto tokens = [&](index of, index h, index length, index width) {
      return scattered<T>(g_, {of, h, length, width});
    };
    const auto key = tokens(batch, heads, n, model_.key_width);
    const auto value = tokens(batch, heads, n, model_.value_width);
    const auto other_heads = tokens(batch, heads + 1, n, model_.key_width);
    const auto wider = tokens(batch, heads, n, model_.value_width + 1);
    const auto longer = tokens(batch, heads, n + 1, model_.value_width);
    const auto more = tokens(batch + 1, heads, n, model_.key_width);
    const std::vector<index> negative(static_cast<std::size_t>(batch), -1),
        many(static_cast<std::size_t>(batch), n + 1), missing(static_cast<std::size_t>(batch + 1));
    const auto query = tokens(batch, heads * 3 + 1, n, model_.key_width);
    const auto wide_query = tokens(batch, heads, n, model_.key_width + 1);
    const index beyond = in_.flag() ? -1 - in_.between(0, 255) : batch + in_.between(0, 255);
    refused([&] { cache_.append(other_heads.view, value.view); });
    refused([&] { cache_.append(key.view, wider.view); });
    refused([&] { cache_.append(key.view, longer.view); });
    refused([&] { cache_.append(more.view, value.view); });
    refused([&] { cache_.append(key.view, value.view, missing); });
    refused([&] { cache_.append(beyond, key.view, value.view); });
    refused([&] { cache_.truncate(beyond, 0); });
    refused([&] { static_cast<void>(cache_.sequence(beyond)); });
    refused([&] { attn::scaled_dot_product_attention(wide_query.view, cache_); });
    if (batch != 1) refused([&] { attn::scaled_dot_product_attention(more.view, cache_); });
    if (heads == 2) refused([&] { attn::scaled_dot_product_attention(query.view, cache_); });
    refused([&] { attn::scaled_dot_product_attention(query.view, cache_, {.key_lengths = many}); });
    if (batch == 0) return;
    refused([&] { cache_.append(key.view, value.view, negative); });
    refused([&] { cache_.append(key.view, value.view, many); });
    refused([&] { cache_.truncate(0, model_.length(0) + 1); });
    refused([&] { cache_.truncate(0, -1); });
  }

  template <class Visible>
  void compare(const heads_view<const T>& q, const attn::heads_array<T>& out,
               const Visible& visible) const {
    for (index b = 0; b < q.batch(); ++b) {
      const index first = rules_.first(model_, b), keys = model_.length(b);
      for (index h = 0; h < q.heads(); ++h) {
        const index from = h * model_.heads / q.heads();
        gradient_problem<T> g;
        problem<T>& p = g.forward;
        p.q = q.head(b, h);
        p.k.resize(keys, model_.key_width);
        p.v.resize(keys, model_.value_width);
        for (index j = 0; j < keys; ++j) {
          const token<T>& t = model_.at(b)[static_cast<std::size_t>(j)];
          for (index c = 0; c < p.k.cols(); ++c) {
            p.k(j, c) = t.key[static_cast<std::size_t>(from * p.k.cols() + c)];
          }
          for (index c = 0; c < p.v.cols(); ++c) {
            p.v(j, c) = t.value[static_cast<std::size_t>(from * p.v.cols() + c)];
          }
        }
        p.scale = 1e-3;
        p.offset = keys - p.q.rows();
        p.visible = [&](place at) { return at.key >= first && visible(at); };
        const std::string text = bounds<T>(g).of_out(out.head(b, h));
        if (!text.empty()) fail(text);
      }
    }
  }
};

// A view of the same pages, and one with a page that is not there.
template <class T>
void view_pages(bytes& in, session<attn::paged_cache<T>, T, paged_rules<T>>& s) {
  const attn::paged_cache<T>& cache = s.cache_;
  std::size_t longest = 1;
  for (index b = 0; b < cache.batch(); ++b) longest = std::max(longest, cache.table(b).size());
  std::vector<std::int32_t> tables(longest * static_cast<std::size_t>(cache.batch()), -1);
  for (index b = 0; b < cache.batch(); ++b) {
    std::copy(cache.table(b).begin(), cache.table(b).end(),
              tables.begin() + b * static_cast<index>(longest));
  }
  const attn::page_pool<T>& pool = *cache.pool();
  const attn::paged_view view(pool.keys(), pool.values(), tables, cache.lengths());
  s.check(view);
  s.attend(view);
  for (index b = 0; b < cache.batch(); ++b) {
    if (cache.length(b) == 0) continue;
    std::vector<std::int32_t> bad = tables;
    bad[static_cast<std::size_t>(b) * longest] =
        static_cast<std::int32_t>(in.flag() ? -1 - in.between(0, 255) : pool.pages());
    require(throws<std::invalid_argument>(
                [&] { attn::paged_view<T>(pool.keys(), pool.values(), bad, cache.lengths()); }),
            "a page that is not there was not refused");
  }
}

template <class T>
void fork(bytes& in, session<attn::paged_cache<T>, T, paged_rules<T>>& s) {
  if (s.model_.batch() == 0) return;
  const index from = in.between(0, s.model_.batch() - 1), to = in.between(0, s.model_.batch() - 1);
  const bool taken = s.rules_.fork(s.model_, from, to);
  const bool refused = throws<std::length_error>([&] { s.cache_.fork(from, to); });
  require(refused != taken, taken ? "a fork was refused" : "a fork was not refused");
  if (taken) s.model_.sequences[static_cast<std::size_t>(to)] = s.model_.at(from);
}

template <class T>
void reorder(bytes& in, session<attn::paged_cache<T>, T, paged_rules<T>>& s) {
  std::vector<index> parents;
  for (index b = 0; b < s.model_.batch(); ++b) {
    parents.push_back(in.between(0, s.model_.batch() - 1));
  }
  s.cache_.reorder(parents);
  s.rules_.reorder(s.model_, parents);
}

template <class T>
void run_paged(bytes& in) {
  const attn::kv_cache_shape n = any_shape(in);
  const index page_size = in.between(1, in.flag() ? 40 : 5),
              pages = in.between(0, in.flag() ? 30 : 6);
  const auto pool =
      std::make_shared<attn::page_pool<T>>(attn::page_pool_shape{.heads = n.heads,
                                                                 .key_width = n.key_width,
                                                                 .page_size = page_size,
                                                                 .pages = pages,
                                                                 .value_width = n.value_width});
  {
    attn::paged_cache<T> cache(pool, n.batch, n.capacity);
    paged_rules<T> rules{page_size, pages, cache.capacity(),
                         std::vector<std::vector<int>>(static_cast<std::size_t>(n.batch))};
    session<attn::paged_cache<T>, T, paged_rules<T>> all(in, std::move(cache), n, rules);
    all.run([&](auto& s) {
      switch (in.between(0, 3)) {
        case 0:
          fork<T>(in, s);
          break;
        case 1:
          reorder<T>(in, s);
          break;
        case 2:
          view_pages<T>(in, s);
          break;
        default: {
          attn::paged_cache<T> moved(std::move(s.cache_));
          s.cache_ = std::move(moved);
        }
      }
      require(pool->pages() - pool->free_pages() == s.rules_.in_use(), "pages that are in use");
    });
  }
  require(pool->free_pages() == pool->pages(), "pages that were not given back");
}

template <class T>
void run_one(bytes& in) {
  const index kind = in.between(0, 2);
  if (kind == 2) return run_paged<T>(in);
  const attn::kv_cache_shape n = any_shape(in);
  if (kind == 0) {
    const contiguous_rules<T> rules{n};
    session<attn::contiguous_cache<T>, T, contiguous_rules<T>> s(in, attn::contiguous_cache<T>(n),
                                                                 n, rules);
    return s.run([](auto& all) { all.cache_ = attn::contiguous_cache<T>(all.cache_); });
  }
  const index window = in.between(0, 255);
  const bool refused = throws<std::invalid_argument>([&] { attn::ring_cache<T>(n, window); });
  require(refused == (window < 1 || window > n.capacity), "a window that does not fit");
  if (refused) return;
  const ring_rules<T> rules{n, window};
  session<attn::ring_cache<T>, T, ring_rules<T>> s(in, attn::ring_cache<T>(n, window), n, rules);
  s.run([](auto& all) { all.cache_ = attn::ring_cache<T>(all.cache_); });
}

}  // namespace
}  // namespace attn_fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data,  // NOLINT(*-naming): the fuzzer's
                                      std::size_t size) {
  attn_fuzz::bytes in({data, size});
  if (in.flag() || !attn_test::long_double_is_wider()) {
    attn_fuzz::run_one<float>(in);
  } else {
    attn_fuzz::run_one<double>(in);
  }
  return 0;
}
