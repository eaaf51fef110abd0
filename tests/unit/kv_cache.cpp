// Caches hold what was appended to them: each kind beside a plain list of tokens, under the same
// random operations, those that must be refused among them; then its own rules, case by case.
#include "support/allocations.hpp"
// It comes before what it counts.
#include "unit/caches.hpp"

namespace attn_test {
namespace {

TEMPLATE_TEST_CASE("a contiguous cache holds what was appended", "", float, double, Eigen::half,
                   Eigen::bfloat16) {
  generator g(1);
  for (int round = 0; round < 60; ++round) {
    const attn::kv_cache_shape shape = any_cache(g);
    attn::contiguous_cache<TestType> cache(shape);
    hold_what_was_appended(g, cache, truth<TestType>(shape), contiguous_rules<TestType>{shape},
                           nothing_more);
  }
}

TEMPLATE_TEST_CASE("a ring cache holds the latest of what was appended", "", float, double,
                   Eigen::half, Eigen::bfloat16) {
  generator g(2);
  for (int round = 0; round < 60; ++round) {
    const attn::kv_cache_shape shape = any_cache(g);
    const index window = g.between(1, shape.capacity);
    attn::ring_cache<TestType> cache(shape, window);
    hold_what_was_appended(g, cache, truth<TestType>(shape), ring_rules<TestType>{shape, window},
                           nothing_more);
  }
}

template <class Cache>
void take_every_kind_of_view(Cache cache) {
  array a = numbers(1, 1);
  cache.append(a, a);
  cache.append(a.view(), std::as_const(a).view());
  Eigen::MatrixXf matrix = Eigen::MatrixXf::Constant(2, 1, 5);
  cache.append(0, attn::one_head(matrix), attn::one_head(matrix));
  const std::vector<int> counts{1};
  cache.append(numbers(7, 3), numbers(7, 3), counts, attn::padding::left);
  cache.append(numbers(7, 3), numbers(7, 3), std::vector<index>{2}, attn::padding::right);
  CHECK(keys_of(cache, 0) == floats{1, 1, 5, 5, 9, 7, 8});
  cache.append(numbers(7, 0), numbers(7, 0));
  CHECK(cache.length(0) == 7);
  CHECK(cache.lengths() == std::vector<index>{7});
  CHECK(attn::integers(cache.lengths())[0] == 7);
}

TEST_CASE("whatever is a view or an array can be appended, with counts in any list") {
  take_every_kind_of_view(attn::contiguous_cache<float>({.capacity = 7, .key_width = 1}));
  take_every_kind_of_view(attn::ring_cache<float>({.capacity = 7, .key_width = 1}, 2));
  take_every_kind_of_view(attn::paged_cache<float>(pool_of(3, 3), 1));
}

TEST_CASE("memory is that of the tokens, aligned to cache lines") {
  const attn::kv_cache_shape shape{
      .batch = 2, .capacity = 10, .heads = 3, .key_width = 16, .value_width = 4};
  const attn::contiguous_cache<float> contiguous(shape);
  CHECK(contiguous.bytes() == 2 * 10 * 3 * (16 + 4) * sizeof(float));
  CHECK(attn::ring_cache<double>(shape, 4).bytes() == 2 * 10 * 3 * (16 + 4) * sizeof(double));
  const stored_keys<float> stored = contiguous.sequence(1);
  CHECK(reinterpret_cast<std::uintptr_t>(contiguous.sequence(0).key) % 64 == 0);
  CHECK(stored.key - contiguous.sequence(0).key == 3 * 10 * 16);
  CHECK(stored.value_head == 10 * 4);
  CHECK(stored.piece == std::numeric_limits<index>::max());
  CHECK(stored.table == nullptr);
  CHECK(attn::contiguous_cache<float>({.capacity = 4}).value_width() == 0);
  const attn::page_pool<float> pool({.heads = 3, .key_width = 16, .page_size = 5, .pages = 7});
  CHECK(pool.bytes() == 7 * 5 * 3 * (16 + 16) * sizeof(float));
}

TEST_CASE("nothing is allocated after the start") {
  const array one({3, 2, 1, 8}), many({3, 2, 5, 8});
  const heads_view<const float> step = one.view(), prompt = many.view();
  const heads_view<const float> single = step.sequences(1, 1);
  const std::vector<index> counts{1, 0, 4};
  const auto quiet = [&](auto cache) {
    const long allocated = allocations_of([&] {
      cache.append(prompt, prompt);
      for (int i = 0; i < 40; ++i) {
        cache.append(step, step);
        cache.append(prompt, prompt, counts, attn::padding::left);
        cache.append(1, single, single);
        cache.truncate(1, cache.length(1) - 1);
        cache.truncate(cache.length(1));
        if constexpr (requires { cache.fork(0, 1); }) cache.fork(0, 1);
        if (cache.sequence(0).length == 0) cache.clear();
      }
      cache.clear();
    });
    CHECK(allocated == 0);
  };
  const attn::kv_cache_shape shape{.batch = 3, .capacity = 256, .heads = 2, .key_width = 8};
  quiet(attn::contiguous_cache<float>(shape));
  quiet(attn::ring_cache<float>(shape, 200));
  const auto pool = std::make_shared<attn::page_pool<float>>(
      attn::page_pool_shape{.heads = 2, .key_width = 8, .page_size = 4, .pages = 200});
  quiet(attn::paged_cache<float>(pool, 3));
}

TEST_CASE("a ring has a window for every new query, and what it overwrote stays lost") {
  attn::ring_cache<float> ring({.capacity = 8, .key_width = 1}, 6);
  CHECK(ring.window() == 6);
  ring.append(numbers(0, 3), numbers(0, 3));
  CHECK(message_of<std::length_error>([&] { ring.append(numbers(3, 4), numbers(3, 4)); }) ==
        "ring_cache has 8 slots, a window of 6 and 4 new tokens need 9: append at most 3 at once");
  for (const float first : {3.0f, 6.0f, 9.0f}) ring.append(numbers(first, 3), numbers(first, 3));
  CHECK(keys_of(ring, 0) == floats{4, 5, 6, 7, 8, 9, 10, 11});
  CHECK(ring.sequence(0).piece == 8);
  CHECK(message_of([&] { ring.truncate(0, 8); }) ==
        "truncate to length 8: sequence 0 of this ring_cache has its tokens from position 4 on, a "
        "window of 6 needs a length of at least 9, or 0 to start anew");
  CHECK(message_of([&] { ring.truncate(8); }) != "");
  CHECK(ring.length(0) == 12);
  ring.truncate(0, 9);
  CHECK(keys_of(ring, 0) == floats{4, 5, 6, 7, 8});
  ring.append(numbers(109, 2), numbers(109, 2));
  CHECK(keys_of(ring, 0) == floats{4, 5, 6, 7, 8, 109, 110});
  ring.append(numbers(111, 2), numbers(111, 2));
  CHECK(keys_of(ring, 0) == floats{5, 6, 7, 8, 109, 110, 111, 112});
  ring.truncate(0, 0);
  ring.append(numbers(7, 1), numbers(7, 1));
  CHECK(keys_of(ring, 0) == floats{7});
}

TEST_CASE("truncating all sequences leaves shorter ones, and changes none where one refuses") {
  attn::ring_cache<float> ring({.batch = 2, .capacity = 4, .key_width = 1}, 3);
  const array six = numbers(0, 1);
  for (int i = 0; i < 3; ++i) ring.append(0, six, six);
  for (int i = 0; i < 9; ++i) ring.append(1, six, six);
  CHECK(message_of([&] { ring.truncate(2); }) != "");
  CHECK(ring.lengths() == std::vector<index>{3, 9});
  ring.truncate(8);
  CHECK(ring.lengths() == std::vector<index>{3, 8});
}

TEST_CASE("copies of a cache go their own ways") {
  attn::contiguous_cache<float> a({.capacity = 4, .key_width = 1});
  a.append(numbers(0, 2), numbers(0, 2));
  attn::contiguous_cache<float> b = a;
  b.append(numbers(2, 1), numbers(2, 1));
  CHECK(keys_of(a, 0) == floats{0, 1});
  CHECK(keys_of(b, 0) == floats{0, 1, 2});
  a = std::move(b);
  CHECK(keys_of(a, 0) == floats{0, 1, 2});
  static_assert(!std::is_copy_constructible_v<attn::paged_cache<float>>);
  static_assert(!std::is_copy_assignable_v<attn::paged_cache<float>>);
}

template <class Cache>
void refuse_what_does_not_fit(Cache cache) {
  const auto tokens = [](index batch, index heads, index n, index width) {
    array a({batch, heads, n, width});
    std::fill_n(a.data(), a.shape().size(), 3.0f);
    return a;
  };
  const array key = tokens(2, 3, 4, 5), value = tokens(2, 3, 4, 6);
  cache.append(key, value);
  const std::vector<index> before = cache.lengths();
  const auto said = [&](const auto& f) {
    std::string message = message_of(f);
    CHECK(cache.lengths() == before);
    return message;
  };
  CHECK(said([&] { cache.append(tokens(1, 3, 4, 5), value); }) ==
        "key is 1 x 3 x 4 x 5, it should be 2 x 3 x any x 5 (sequences, heads, tokens, features)");
  CHECK(said([&] { cache.append(tokens(2, 2, 4, 5), value); }) != "");
  CHECK(said([&] { cache.append(tokens(2, 3, 4, 6), value); }) != "");
  CHECK(
      said([&] { cache.append(key, key); }) ==
      "value is 2 x 3 x 4 x 5, it should be 2 x 3 x any x 6 (sequences, heads, tokens, features)");
  CHECK(said([&] { cache.append(key, tokens(2, 3, 3, 6)); }) == "value has 3 tokens, key has 4");
  CHECK(said([&] { cache.append(1, key, value); }) ==
        "key is 2 x 3 x 4 x 5, it should be 1 x 3 x any x 5 (sequences, heads, tokens, features)");
  const auto of_cache = [&](const float* memory, index width) {
    return attn::heads_view<const float>(memory, {2, 3, 4, width}, {0, 0, 0, 1});
  };
  CHECK(said([&] { cache.append(of_cache(cache.sequence(0).key, 5), value); }) ==
        "key lies in the memory of the cache or its pool: append a copy of it");
  CHECK(said([&] { cache.append(key, of_cache(cache.sequence(1).value + 5, 6)); }) ==
        "value lies in the memory of the cache or its pool: append a copy of it");
  for (const index b : {-1, 2}) {
    const std::string message =
        "sequence " + std::to_string(b) + " is not within the 2 of this cache";
    CHECK(said([&] { cache.append(b, tokens(1, 3, 4, 5), tokens(1, 3, 4, 6)); }) == message);
    CHECK(said([&] { cache.truncate(b, 0); }) == message);
    CHECK(said([&] { static_cast<void>(cache.length(b)); }) == message);
    CHECK(said([&] { static_cast<void>(cache.sequence(b)); }) == message);
  }
  const auto counted = [&](const std::vector<int>& counts) {
    return said([&] { cache.append(key, value, counts, attn::padding::right); });
  };
  CHECK(counted({1}) == "counts has 1 entries, the cache has 2 sequences");
  CHECK(counted({1, 5}) == "counts[1] is 5, it should be within 0 ... 4");
  CHECK(counted({-1, 0}) == "counts[0] is -1, it should be within 0 ... 4");
  CHECK(said([&] { cache.truncate(1, 5); }) == "truncate to length 5: sequence 1 has 4");
  CHECK(said([&] { cache.truncate(1, -1); }) == "truncate to length -1: sequence 1 has 4");
  CHECK(said([&] { cache.truncate(-1); }) == "truncate to length -1: it should be at least 0");
}

TEST_CASE("what does not fit is refused, and nothing has changed") {
  const attn::kv_cache_shape shape{
      .batch = 2, .capacity = 9, .heads = 3, .key_width = 5, .value_width = 6};
  const auto pool = std::make_shared<attn::page_pool<float>>(attn::page_pool_shape{
      .heads = 3, .key_width = 5, .page_size = 3, .pages = 6, .value_width = 6});
  refuse_what_does_not_fit(attn::contiguous_cache<float>(shape));
  refuse_what_does_not_fit(attn::ring_cache<float>(shape, 4));
  refuse_what_does_not_fit(attn::paged_cache<float>(pool, 2));
  CHECK(pool->free_pages() == 6);

  // All or nothing: the first sequence would have had room.
  attn::contiguous_cache<float> contiguous({.batch = 2, .capacity = 4, .key_width = 1});
  contiguous.append(1, numbers(0, 3), numbers(0, 3));
  const array two = numbers(0, 2, 2);
  CHECK(message_of<std::length_error>([&] { contiguous.append(two, two); }) ==
        "contiguous_cache has room for 4 tokens, sequence 1 has 3 and 2 new ones");
  CHECK(contiguous.lengths() == std::vector<index>{0, 3});
  attn::paged_cache<float> paged(pool_of(3, 2), 2, 4);
  paged.append(1, numbers(0, 3), numbers(0, 3));
  CHECK(message_of<std::length_error>([&] { paged.append(two, two); }) ==
        "paged_cache has room for 4 tokens, sequence 1 has 3 and 2 new ones");
  paged.append(0, numbers(0, 2), numbers(0, 2));
  CHECK(message_of<std::length_error>([&] { paged.append(0, numbers(0, 1), numbers(0, 1)); }) ==
        "page_pool has 0 free pages, the new tokens need 1");
  CHECK(message_of<std::length_error>([&] { paged.fork(1, 1); }) == "");
  paged.truncate(0, 0);
  const std::int32_t kept = paged.pool()->take();
  CHECK(message_of<std::length_error>([&] { paged.fork(1, 0); }) ==
        "page_pool has no free page for the fork of sequence 1");
  CHECK(message_of([&] { paged.fork(2, 0); }) == "sequence 2 is not within the 2 of this cache");
  CHECK(message_of([&] { paged.fork(0, -1); }) != "");
  CHECK(paged.lengths() == std::vector<index>{0, 3});
  paged.pool()->give_back(kept);
}

TEST_CASE("caches that make no sense are refused") {
  using contiguous = attn::contiguous_cache<float>;
  using ring = attn::ring_cache<float>;
  using pool = attn::page_pool<float>;
  using paged = attn::paged_cache<float>;
  for (const attn::kv_cache_shape& shape : {attn::kv_cache_shape{.batch = -1},
                                            {.capacity = -1},
                                            {.heads = -1},
                                            {.heads = 0},
                                            {.key_width = -1},
                                            {.value_width = -1}}) {
    CHECK(message_of([&] { contiguous{shape}; }).find("contiguous_cache has") == 0);
    CHECK(message_of([&] { ring(shape, 1); }).find("ring_cache has") == 0);
  }
  CHECK(message_of([] { ring({.capacity = 4}, 5); }) ==
        "ring_cache has a window of 5, it should be within 1 ... 4, the capacity");
  CHECK(message_of([] { ring({.capacity = 4}, 0); }) != "");
  const index huge = std::numeric_limits<index>::max() / 4;
  CHECK(message_of<std::length_error>([&] {
          contiguous({.batch = 4, .capacity = huge, .key_width = 8});
        }) == "contiguous_cache of 4 x 1 x " + std::to_string(huge) +
                  " x 8 elements is more than there are addresses for");
  CHECK(message_of([] { pool({.page_size = 0, .pages = 1}); }) ==
        "page_pool has a page_size of 0, it should be at least 1");
  CHECK(message_of([] { pool({.pages = -1}); }) != "");
  CHECK(message_of([] { pool({.pages = index{1} << 31}); }) != "");
  CHECK(message_of([] { paged(nullptr, 1); }) == "paged_cache has no page_pool");
  CHECK(message_of([] { paged(pool_of(1, 1), -1); }) ==
        "paged_cache has -1 sequences, it should be at least 0");
  CHECK(message_of([] { paged(pool_of(1, 1), 1, -1); }) != "");
}

}  // namespace
}  // namespace attn_test
