// Attention to caches: a run that appends token by token equals the one that has all keys at hand,
// whatever the cache, and nothing but what is in it reaches a result.
#include <attn/cache_attention.hpp>
#include <attn/heads_attention.hpp>
#include <attn/paged_cache.hpp>

#include "heads/support.hpp"

namespace attn_test {
namespace {

using attn::heads_array;

template <class T>
attn::contiguous_cache<T> contiguous(index batch, index heads, index capacity, index d, index dv) {
  return attn::contiguous_cache<T>(
      {.batch = batch, .capacity = capacity, .heads = heads, .key_width = d, .value_width = dv});
}
template <class T>
attn::paged_cache<T> paged(index batch, index heads, index pages, index page_size, index d,
                           index dv) {
  return attn::paged_cache<T>(
      std::make_shared<attn::page_pool<T>>(attn::page_pool_shape{.heads = heads,
                                                                 .key_width = d,
                                                                 .page_size = page_size,
                                                                 .pages = pages,
                                                                 .value_width = dv}),
      batch);
}

struct sizes {
  index batch = 2, heads = 4, key_heads = 2, d = 6, dv = 5, length = 320;
};

template <class T>
void close_to(const attn::heads_view<const T>& a, const attn::heads_view<const T>& b) {
  REQUIRE(a.shape() == b.shape());
  double worst = 0;
  for (index n = 0; n < a.batch(); ++n) {
    for (index h = 0; h < a.heads(); ++h) {
      worst =
          std::max(worst, static_cast<double>((a.head(n, h) - b.head(n, h)).cwiseAbs().maxCoeff()));
    }
  }
  CHECK(worst <= 64 * static_cast<double>(std::numeric_limits<T>::epsilon()));
}

// Appends in steps of several sizes and attends after each; `mask` is causal or narrower.
template <class T, class Cache, class M>
void check_run(generator& g, Cache cache, const sizes& n, const M& mask,
               const std::vector<index>& steps) {
  const auto q = any_heads<T>(g, {n.batch, n.heads, n.length, n.d}, attn::heads_order::blhd);
  const auto k = any_heads<T>(g, {n.batch, n.key_heads, n.length, n.d}, attn::heads_order::blhd);
  const auto v = any_heads<T>(g, {n.batch, n.key_heads, n.length, n.dv});
  const auto whole = attn::scaled_dot_product_attention(q, k, v, mask, attn::alibi(0.02));
  index at = 0;
  for (std::size_t s = 0; at < n.length; ++s) {
    const index step = std::min(steps[s % steps.size()], n.length - at);
    cache.append(k.view().tokens(at, step), v.view().tokens(at, step));
    const auto fresh = q.view().tokens(at, step);
    CAPTURE(at, step);
    for (const bool reproducible : {true, false}) {
      const auto out = attn::scaled_dot_product_attention(
          fresh, cache, mask, attn::alibi(0.02),
          {.alignment = attn::bottom_right, .reproducible = reproducible});
      if (reproducible) {
        check_same(out, whole.view().tokens(at, step));
      } else {
        close_to<T>(out.view(), whole.view().tokens(at, step));
      }
    }
    at += step;
  }
}

template <class T>
void check_caches(generator& g, const std::vector<index>& steps) {
  const sizes n;
  const auto causal = attn::causal();
  const auto window = causal & attn::sliding_window(20, 0);
  check_run<T>(g, contiguous<T>(n.batch, n.key_heads, n.length + 3, n.d, n.dv), n, causal, steps);
  check_run<T>(g, contiguous<T>(n.batch, n.key_heads, n.length, n.d, n.dv), n, window, steps);
  for (const index page : {1, 3, 16, 64, 400}) {
    const index pages = n.batch * ((n.length + page - 1) / page);
    check_run<T>(g, paged<T>(n.batch, n.key_heads, pages, page, n.d, n.dv), n, causal, steps);
  }
  const index most = *std::max_element(steps.begin(), steps.end());
  for (const index capacity : {20 + most, 21 + most, index{150}, index{400}}) {
    const attn::ring_cache<T> ring({.batch = n.batch,
                                    .capacity = capacity,
                                    .heads = n.key_heads,
                                    .key_width = n.d,
                                    .value_width = n.dv},
                                   21);
    check_run<T>(g, ring, n, window, steps);
  }
}

TEST_CASE("a cached run is the uncached one") {
  generator g(701);
  check_caches<float>(g, {1});
  check_caches<float>(g, {7, 1, 1, 30});
  check_caches<double>(g, {2, 9, 1});
}

TEST_CASE("sequences of different lengths, padded on either side") {
  generator g(702);
  for (const auto side : {attn::padding::right, attn::padding::left}) {
    auto a = contiguous<float>(3, 2, 400, 6, 5);
    auto b = paged<float>(3, 2, 80, 16, 6, 5);
    const std::vector<int> counts{200, 0, 131};
    const auto k = any_heads<float>(g, {3, 2, 200, 6}), v = any_heads<float>(g, {3, 2, 200, 5});
    a.append(k, v, counts, side);
    b.append(k, v, counts, side);
    for (const index queries : {1, 9}) {
      const auto q = any_heads<float>(g, {3, 4, queries, 6});
      const attn::options options{.alignment = attn::bottom_right};
      const auto out = attn::scaled_dot_product_attention(q, a, attn::causal(), options);
      check_same(attn::scaled_dot_product_attention(q, b, attn::causal(), options), out);
      for (index n = 0; n < 3; ++n) {
        const index count = counts[static_cast<std::size_t>(n)];
        const index first = side == attn::padding::left ? 200 - count : 0;
        const auto alone = attn::scaled_dot_product_attention(
            q.view().sequences(n, 1), k.view().sequences(n, 1).tokens(first, count),
            v.view().sequences(n, 1).tokens(first, count), attn::causal(), options);
        check_same(out.view().sequences(n, 1), alone);
      }
    }
  }
}

TEST_CASE("new tokens padded on either side of different numbers") {
  generator g(710);
  attn::ring_cache<float> ring({.batch = 3, .capacity = 40, .heads = 2, .key_width = 6}, 9);
  auto whole = contiguous<float>(3, 2, 400, 6, 6);
  auto other_ring = ring;
  const auto old = any_heads<float>(g, {3, 2, 25, 6});
  for (auto* cache : {&ring, &other_ring}) cache->append(old, old);
  whole.append(old, old);
  // Rolled back by different numbers, so that rows of padding would stand before what is there.
  for (const index b : {0, 2}) {
    for (auto* cache : {&ring, &other_ring}) cache->truncate(b, 20);
    whole.truncate(b, 20);
  }
  const std::vector<int> counts{20, 0, 3};
  const auto right = any_heads<float>(g, {3, 2, 20, 6});
  auto left = any_heads<float>(g, {3, 2, 20, 6});
  for (index b = 0; b < 3; ++b) {
    const index n = counts[static_cast<std::size_t>(b)];
    for (index h = 0; h < 2; ++h) {
      left.head(b, h).topRows(20 - n).setConstant(std::numeric_limits<float>::quiet_NaN());
      left.head(b, h).bottomRows(n) = right.head(b, h).topRows(n);
    }
  }
  ring.append(right, right, counts);
  other_ring.append(left, left, counts, attn::padding::left);
  whole.append(left, left, counts, attn::padding::left);
  attn::options options{.alignment = attn::bottom_right, .query_lengths = counts};
  const auto expected = attn::scaled_dot_product_attention(right, ring, attn::causal(), options);
  options.padding = attn::padding::left;
  heads_array<float> lse;
  options.log_sum_exp = lse;
  const auto found = attn::scaled_dot_product_attention(left, other_ring, attn::none(), options);
  const auto window = attn::sliding_window(8, 0);
  const auto in_whole = attn::scaled_dot_product_attention(left, whole, window, options);
  for (index b = 0; b < 3; ++b) {
    const index n = counts[static_cast<std::size_t>(b)];
    const auto last = [&](const auto& all) { return all.view().sequences(b, 1).tokens(20 - n, n); };
    check_same(last(found), expected.view().sequences(b, 1).tokens(0, n));
    check_same(last(in_whole), last(found));
    for (index h = 0; h < 2; ++h) {
      CHECK(found.head(b, h).topRows(20 - n).isZero(0));
      CHECK((lse.head(b, h).topRows(20 - n).array() == -std::numeric_limits<float>::infinity())
                .all());
    }
  }
  // A mask with a row a query would have rows of padding first.
  const auto rows = any_heads<float>(g, {1, 1, 20, 40});
  CHECK(missing([&] { attn::scaled_dot_product_attention(left, whole, rows, options); },
                {"mask in memory", "row a query", "padding is left"}) == "");
}

TEST_CASE("truncated, forked and grown again") {
  generator g(703);
  const auto k = any_heads<float>(g, {1, 2, 60, 6}), v = any_heads<float>(g, {1, 2, 60, 6});
  const auto other = any_heads<float>(g, {1, 2, 10, 6});
  auto cache = paged<float>(2, 2, 12, 16, 6, 6);
  cache.append(0, k.view().tokens(0, 40), v.view().tokens(0, 40));
  cache.fork(0, 1);
  cache.append(1, other, other);
  cache.truncate(0, 25);
  cache.append(0, k.view().tokens(25, 35), v.view().tokens(25, 35));
  const auto q = any_heads<float>(g, {2, 2, 1, 6});
  const auto out = attn::scaled_dot_product_attention(q, cache);
  check_same(out.view().sequences(0, 1),
             attn::scaled_dot_product_attention(q.view().sequences(0, 1), k, v));
  auto forked = contiguous<float>(1, 2, 50, 6, 6);
  forked.append(k.view().tokens(0, 40), v.view().tokens(0, 40));
  forked.append(other, other);
  check_same(out.view().sequences(1, 1),
             attn::scaled_dot_product_attention(q.view().sequences(1, 1), forked));
}

// NaN wherever the cache has memory that is not of the sequence.
TEST_CASE("unused capacity, freed pages and other sequences are inert") {
  generator g(704);
  const auto k = any_heads<float>(g, {2, 1, 150, 6}), q = any_heads<float>(g, {2, 2, 2, 6});
  heads_array<float> bad({2, 1, 150, 6});
  for (index n = 0; n < bad.shape().size(); ++n) {
    bad.data()[n] = std::numeric_limits<float>::quiet_NaN();
  }
  const auto expected = attn::scaled_dot_product_attention(q, k, k);
  const auto check = [&](auto& cache) {
    cache.append(bad, bad);
    cache.truncate(0);
    cache.append(k, k);
    check_same(attn::scaled_dot_product_attention(q, cache), expected);
    cache.truncate(1, 0);
    cache.append(1, bad.view().sequences(1, 1), bad.view().sequences(1, 1));
    const auto mixed = attn::scaled_dot_product_attention(q, cache);
    check_same(mixed.view().sequences(0, 1), expected.view().sequences(0, 1));
    CHECK(mixed.head(1, 0).array().isNaN().all());
  };
  auto a = contiguous<float>(2, 1, 200, 6, 6);
  auto b = paged<float>(2, 1, 40, 8, 6, 6);
  check(a);
  check(b);
}

TEST_CASE("results are not written over what a cache holds") {
  generator g(706);
  const auto pool = std::make_shared<attn::page_pool<float>>(
      attn::page_pool_shape{.heads = 2, .key_width = 8, .page_size = 4, .pages = 3});
  attn::paged_cache<float> cache(pool, 2);
  const auto k = any_heads<float>(g, {2, 2, 3, 8}), q = any_heads<float>(g, {2, 2, 1, 8});
  cache.append(k, k);
  const auto over = [&](const auto& memory) {
    return missing(
        [&] {
          attn::scaled_dot_product_attention_into(memory.sequences(0, 2).tokens(0, 1), q, cache);
        },
        {"out overlaps the cache"});
  };
  CHECK(over(pool->keys()) == "");
  CHECK(over(pool->values()) == "");
  CHECK(pool->keys()(0, 1, 2, 3) == k(0, 1, 2, 3));

  // Pages in columns, their last ones, and pages that are read backwards.
  std::vector<float> keys(8 * 16, 1), values(8 * 16, 1), queries(16, 1);
  const std::vector<std::int32_t> table{0}, lengths{8};
  const attn::heads_shape page{1, 1, 8, 16}, one{1, 1, 1, 16};
  const auto refused = [&](const attn::heads_view<const float>& of_values, float* out) {
    const attn::paged_view<float> in_columns(
        attn::heads_view<const float>(keys.data(), page, {128, 128, 1, 8}), of_values, table,
        lengths);
    return missing(
        [&] {
          attn::scaled_dot_product_attention_into(attn::bhld(out, one),
                                                  attn::bhld(queries.data(), one), in_columns);
        },
        {"out overlaps the cache"});
  };
  const attn::heads_view<const float> in_columns(values.data(), page, {128, 128, 1, 8});
  const attn::heads_view<const float> backwards(values.data() + 7 * 16, page, {128, 128, -16, 1});
  CHECK(refused(in_columns, values.data() + 64) == "");
  CHECK(refused(backwards, values.data() + 64) == "");
  CHECK(values == std::vector<float>(8 * 16, 1));

  // A page that is not the sequence's lies between those that are.
  std::vector<float> pages(3 * 16, 1), others(3 * 16, 1);
  const std::vector<std::int32_t> first_and_last{2, 0}, two{2};
  const attn::heads_shape three{3, 1, 1, 16};
  const attn::paged_view<float> apart(attn::bhld(pages.data(), three),
                                      attn::bhld(others.data(), three), first_and_last, two);
  const auto result_in = [&](std::vector<float>& memory, int n) {
    return message_of([&] {
      attn::scaled_dot_product_attention_into(attn::bhld(memory.data() + n * 16, one),
                                              attn::bhld(queries.data(), one), apart);
    });
  };
  for (const int n : {0, 2}) {
    for (std::vector<float>* const memory : {&pages, &others}) {
      CHECK(result_in(*memory, n).starts_with("out overlaps the cache in memory"));
    }
  }
  std::fill(queries.begin(), queries.end(), 2.0f);
  CHECK(result_in(pages, 1) == "");
  CHECK(result_in(others, 1) == "");
}

// A ring that has lost its first keys: its own chunks only, and a tile that is empty.
TEST_CASE("a ring far beyond its start") {
  generator g(707);
  attn::ring_cache<float> ring({.capacity = 3, .heads = 1, .key_width = 4}, 1);
  const auto k = any_heads<float>(g, {1, 1, 1, 4});
  for (int n = 0; n < 10; ++n) ring.append(k, k);
  ring.truncate(0, 7);
  const auto none = attn::scaled_dot_product_attention(k, ring, {.alignment = attn::offset(7)});
  CHECK((none.head(0, 0).array() == 0).all());

  attn::ring_cache<float> wide({.capacity = 200, .heads = 1, .key_width = 4}, 150);
  const auto many = any_heads<float>(g, {1, 1, 5000, 4});
  for (index n = 0; n < 5000; n += 50) {
    wide.append(many.view().tokens(n, 50), many.view().tokens(n, 50));
  }
  const auto out = attn::scaled_dot_product_attention(
      k, wide, {.alignment = attn::bottom_right, .reproducible = true});
  const auto last = many.view().tokens(4850, 150);
  close_to<float>(out.view(), attn::scaled_dot_product_attention(k, last, last).view());
  const auto split = attn::scaled_dot_product_attention(k, wide, {.alignment = attn::bottom_right});
  close_to<float>(split.view(), out.view());
}

// A cache of the user's, whose first tokens are gone whatever the mask.
struct later_tokens {
  using value_type = float;
  const attn::contiguous_cache<float>& all;
  index first;

  [[nodiscard]] index batch() const { return all.batch(); }
  [[nodiscard]] index heads() const { return all.heads(); }
  [[nodiscard]] index key_width() const { return all.key_width(); }
  [[nodiscard]] index value_width() const { return all.value_width(); }
  [[nodiscard]] index length(index b) const { return all.length(b); }
  [[nodiscard]] attn::stored_keys<float> sequence(index b) const {
    attn::stored_keys<float> later = all.sequence(b);
    later.first = first;
    return later;
  }
};

TEST_CASE("what a cache of the user's no longer has is not read") {
  generator g(709);
  const index length = 3000;
  auto all = contiguous<float>(1, 2, length, 4, 4);
  auto k = any_heads<float>(g, {1, 2, length, 4}), v = any_heads<float>(g, {1, 2, length, 4});
  all.append(k, v);
  for (const index queries : {1, 20}) {
    const auto q = any_heads<float>(g, {1, 4, queries, 4});
    for (const index first : {1, 100, 128, 1500, 2999}) {
      const index rest = length - first;
      const auto expected = attn::scaled_dot_product_attention(q, k.view().tokens(first, rest),
                                                               v.view().tokens(first, rest));
      for (const bool reproducible : {false, true}) {
        const auto out = attn::scaled_dot_product_attention(q, later_tokens{all, first},
                                                            {.reproducible = reproducible});
        close_to<float>(out.view(), expected.view());
      }
    }
  }
}

TEST_CASE("a ring has the windows of what was appended last, and says so") {
  generator g(708);
  attn::ring_cache<float> ring({.capacity = 12, .heads = 2, .key_width = 4}, 10);
  const auto all = any_heads<float>(g, {1, 2, 20, 4});
  for (index n = 0; n < 20; ++n) ring.append(all.view().tokens(n, 1), all.view().tokens(n, 1));
  const auto attend = [&](index queries, const auto& mask) {
    const auto out =
        attn::scaled_dot_product_attention(all.view().tokens(20 - queries, queries), ring, mask,
                                           {.alignment = attn::bottom_right, .reproducible = true});
    const auto whole =
        attn::scaled_dot_product_attention(all, all, all, mask, {.reproducible = true});
    check_same(out, whole.view().tokens(20 - queries, queries));
  };
  const attn::sliding_window window(9, 0), narrow(6, 0);
  attend(3, window);  // capacity - window + 1
  attend(6, narrow);  // all that these see is there
  CHECK(missing([&] { attend(4, window); }, {"queries of sequence 0 stand at positions 16 ... 19",
                                             "ring_cache has overwritten", "before position 8"}) ==
        "");
  CHECK(missing([&] { attend(7, narrow); }, {"has overwritten"}) == "");

  // The window is the ring's, whatever else the mask would show.
  const attn::options last{.alignment = attn::bottom_right, .reproducible = true};
  const auto three = all.view().tokens(17, 3);
  const auto within = attn::scaled_dot_product_attention(three, ring, window, last);
  check_same(attn::scaled_dot_product_attention(three, ring, attn::causal(), last), within);
  check_same(attn::scaled_dot_product_attention(three, ring, last), within);
  check_same(attn::scaled_dot_product_attention(three, ring, attn::sliding_window(11, 3), last),
             within);
  CHECK(missing([&] { attn::scaled_dot_product_attention(three, ring); }, {"alignment"}) == "");

  ring.truncate(0, 17);
  const auto before = [&] {
    attn::scaled_dot_product_attention(all.view().tokens(16, 1), ring, window, last);
  };
  CHECK(missing(before, {"stand at positions 16 ... 16"}) == "");
}

TEST_CASE("one sequence of a cache serves all of a batch") {
  generator g(709);
  auto cache = contiguous<float>(1, 2, 300, 6, 5);
  const auto k = any_heads<float>(g, {1, 2, 300, 6}), v = any_heads<float>(g, {1, 2, 300, 5});
  cache.append(k, v);
  for (const index queries : {1, 9}) {
    const auto q = any_heads<float>(g, {3, 4, queries, 6});
    const attn::options options{.alignment = attn::bottom_right};
    check_same(attn::scaled_dot_product_attention(q, cache, attn::causal(), options),
               attn::scaled_dot_product_attention(q, k, v, attn::causal(), options));
  }
}

TEST_CASE("masks in memory, weights, and bad input") {
  generator g(705);
  auto cache = contiguous<float>(2, 2, 30, 6, 5);
  const auto k = any_heads<float>(g, {2, 2, 20, 6}), v = any_heads<float>(g, {2, 2, 20, 5});
  const std::vector<int> counts{20, 12};
  cache.append(k, v, counts, attn::padding::right);
  const auto q = any_heads<float>(g, {2, 4, 3, 6});
  const auto bias = any_heads<float>(g, {2, 1, 3, 20});
  heads_array<float> weights, expected_weights;
  const auto out = attn::scaled_dot_product_attention(q, cache, bias, {.weights = weights});
  const auto expected = attn::scaled_dot_product_attention(
      q, k, v, bias, {.key_lengths = counts, .weights = expected_weights});
  check_same(out, expected);
  check_same(weights, expected_weights);

  const auto wide = any_heads<float>(g, {2, 4, 3, 7}), three = any_heads<float>(g, {2, 3, 3, 6});
  const auto one = any_heads<float>(g, {1, 4, 3, 6});
  const auto call = [&](const auto& query, const attn::options& options = {}) {
    return [&, options] { attn::scaled_dot_product_attention(query, cache, options); };
  };
  CHECK(missing(call(wide), {"cache has width 6, query has 7"}) == "");
  CHECK(missing(call(three), {"cache has 2 heads", "divide the 3"}) == "");
  CHECK(missing(call(one), {"cache has 2 sequences, query has 1"}) == "");
  CHECK(missing(call(q, {.key_lengths = counts}), {"key_lengths", "truncate"}) == "");
  const auto causal = [&] { attn::scaled_dot_product_attention(q, cache, attn::causal()); };
  CHECK(missing(causal, {"alignment"}) == "");
}

}  // namespace
}  // namespace attn_test
