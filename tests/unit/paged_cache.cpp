// Pages: what is in use and how often, forks, copies before writing, tables of others.
#include "unit/caches.hpp"

namespace attn_test {
namespace {

TEMPLATE_TEST_CASE("a paged cache holds what was appended, in no more pages than it takes", "",
                   float, double, Eigen::half, Eigen::bfloat16) {
  generator g(3);
  for (int round = 0; round < 60; ++round) {
    const attn::kv_cache_shape n = any_cache(g);
    const auto pool = std::make_shared<attn::page_pool<TestType>>(
        attn::page_pool_shape{.heads = n.heads,
                              .key_width = n.key_width,
                              .page_size = g.between(1, 7),
                              .pages = g.between(1, 16),
                              .value_width = n.value_width});
    const index most = pool->pages() * pool->page_size();
    {
      attn::paged_cache<TestType> cache(pool, n.batch, n.capacity);
      CHECK(cache.capacity() == std::min(n.capacity, most));
      const paged_rules<TestType> rules{
          pool->page_size(), pool->pages(), cache.capacity(),
          std::vector<std::vector<int>>(static_cast<std::size_t>(n.batch))};
      hold_what_was_appended(
          g, cache, truth<TestType>(n), rules, [&](auto&, auto& model, auto& now) {
            if (g.chance(0.2)) {
              const index from = g.between(0, n.batch - 1), to = g.between(0, n.batch - 1);
              const bool taken = now.fork(model, from, to);
              const std::string refusal =
                  message_of<std::length_error>([&] { cache.fork(from, to); });
              CHECK(refusal.empty() == taken);
              if (taken) model.sequences[static_cast<std::size_t>(to)] = model.at(from);
            } else if (g.chance(0.2)) {
              std::vector<index> parents(static_cast<std::size_t>(n.batch));
              for (index& parent : parents) parent = g.between(0, n.batch - 1);
              cache.reorder(parents);
              now.reorder(model, parents);
            }
            CHECK(pool->pages() - pool->free_pages() == now.in_use());
            CHECK(cache.bytes() * static_cast<std::size_t>(pool->pages()) ==
                  pool->bytes() * static_cast<std::size_t>(now.in_use()));
            for (index b = 0; b < n.batch; ++b) {
              const auto& names = now.tables[static_cast<std::size_t>(b)];
              REQUIRE(cache.table(b).size() == names.size());
              for (std::size_t i = 0; i < names.size(); ++i) {
                CHECK(pool->references(cache.table(b)[i]) == now.holders(names[i]));
              }
            }
          });
    }
    CHECK(pool->free_pages() == pool->pages());
  }
}

TEST_CASE("a fork shares full pages and goes on by itself") {
  const auto pool = pool_of(4, 2);
  attn::paged_cache<float> cache(pool, 2);
  cache.append(0, numbers(0, 5), numbers(0, 5));
  cache.fork(0, 1);
  CHECK(pool->free_pages() == 0);
  CHECK(cache.table(1)[0] == cache.table(0)[0]);
  CHECK(cache.table(1)[1] == cache.table(0)[1]);
  CHECK(cache.table(1)[2] != cache.table(0)[2]);
  cache.append(0, numbers(5, 1), numbers(5, 1));
  cache.append(1, numbers(105, 1), numbers(105, 1));
  CHECK(keys_of(cache, 0) == floats{0, 1, 2, 3, 4, 5});
  CHECK(keys_of(cache, 1) == floats{0, 1, 2, 3, 4, 105});
  cache.fork(0, 1);
  CHECK(pool->free_pages() == 1);
  cache.fork(1, 1);
  CHECK(keys_of(cache, 1) == floats{0, 1, 2, 3, 4, 5});
}

TEST_CASE("a reordered cache goes on from the parents, and shares what it can") {
  const auto pool = pool_of(5, 2);
  attn::paged_cache<float> cache(pool, 3);
  cache.append(0, numbers(0, 3), numbers(0, 3));
  cache.append(1, numbers(10, 4), numbers(10, 4));
  cache.append(2, numbers(20, 2), numbers(20, 2));
  CHECK(pool->free_pages() == 0);
  CHECK(message_of([&] { cache.reorder({1, 0}); }) ==
        "parents has 2 entries, the cache has 3 sequences");
  CHECK(message_of([&] { cache.reorder({1, 0, 3}); }) ==
        "parents[2] is 3, it should be within the 3 sequences");
  CHECK(message_of([&] { cache.reorder({1, -1, 2}); }) != "");
  cache.reorder({1, 0, 0});
  CHECK(keys_of(cache, 0) == floats{10, 11, 12, 13});
  CHECK(keys_of(cache, 1) == floats{0, 1, 2});
  CHECK(keys_of(cache, 2) == floats{0, 1, 2});
  CHECK(pool->free_pages() == 1);
  CHECK(cache.table(1)[1] == cache.table(2)[1]);
  cache.truncate(0, 2);  // two pages free: one for sequence 0, one for a copy
  const array next = numbers(100, 1, 3);
  cache.append(next, next);
  CHECK(pool->free_pages() == 0);
  CHECK(keys_of(cache, 0) == floats{10, 11, 100});
  CHECK(keys_of(cache, 1) == floats{0, 1, 2, 101});
  CHECK(keys_of(cache, 2) == floats{0, 1, 2, 102});
  cache.reorder({2, 2, 2});
  CHECK(pool->free_pages() == 3);
  cache.truncate(0, 0);
  cache.truncate(1, 1);
  cache.truncate(2, 2);
  cache.reorder(cache.lengths());
  CHECK(cache.lengths() == std::vector<index>{0, 1, 2});
  cache.reorder({2, 2, 2});
  CHECK(keys_of(cache, 1) == floats{0, 1});
  cache.clear();
  CHECK(pool->free_pages() == 5);
}

TEST_CASE("pages that were given back are taken in the same order") {
  const auto pool = pool_of(4, 2);
  attn::paged_cache<float> cache(pool, 1);
  const auto pages = [&] {
    const auto table = cache.table(0);
    return std::vector<int>(table.begin(), table.end());
  };
  cache.append(numbers(0, 8), numbers(0, 8));
  CHECK(pages() == std::vector{0, 1, 2, 3});
  cache.truncate(0, 2);
  cache.append(numbers(0, 6), numbers(0, 6));
  CHECK(pages() == std::vector{0, 1, 2, 3});
  cache.clear();
  cache.append(numbers(0, 3), numbers(0, 3));
  CHECK(pages() == std::vector{0, 1});
}

// Truncated into a page that they share, two sequences go on: the first needs a copy of it, the
// second has it to itself by then. One free page is enough for both, none is not.
TEST_CASE("a shared page that became unfinished is copied before it is written to") {
  for (const index pages : {2, 3}) {
    const auto pool = pool_of(pages, 4);
    attn::paged_cache<float> cache(pool, 2);
    cache.append(0, numbers(0, 8), numbers(0, 8));
    cache.fork(0, 1);
    cache.truncate(0, 6);
    cache.truncate(1, 7);
    CHECK(pool->free_pages() == pages - 2);
    const array next = numbers(100, 1, 2);
    const std::string refusal = message_of<std::length_error>([&] { cache.append(next, next); });
    if (pages == 2) {
      CHECK(refusal == "page_pool has 0 free pages, the new tokens need 1");
      CHECK(keys_of(cache, 0) == floats{0, 1, 2, 3, 4, 5});
      cache.truncate(1, 4);  // the other has the page to itself
      cache.append(0, numbers(100, 1), numbers(100, 1));
    } else {
      CHECK(refusal == "");
      CHECK(keys_of(cache, 1) == floats{0, 1, 2, 3, 4, 5, 6, 101});
      CHECK(cache.table(0)[1] != cache.table(1)[1]);
    }
    CHECK(keys_of(cache, 0) == floats{0, 1, 2, 3, 4, 5, 100});
  }
}

TEST_CASE("caches on one pool; what is moved takes its pages along") {
  const auto pool = pool_of(6, 2);
  attn::paged_cache<float> a(pool, 1), b(pool, 2, 4);
  a.append(numbers(0, 5), numbers(0, 5));
  b.append(numbers(10, 1, 2), numbers(10, 1, 2));
  CHECK(pool->free_pages() == 1);
  CHECK(a.bytes() == 3 * 2 * 2 * sizeof(float));
  attn::paged_cache<float> c(std::move(a));
  CHECK(keys_of(c, 0) == floats{0, 1, 2, 3, 4});
  // NOLINTBEGIN(bugprone-use-after-move): that it is safe is what is tested
  CHECK(a.batch() == 0);
  CHECK(a.bytes() == 0);
  CHECK(message_of([&] { a.append(numbers(0, 1), numbers(0, 1)); }) != "");
  const attn::heads_array<float> nothing({0, a.heads(), 1, a.key_width()});
  a.append(nothing, nothing);
  CHECK(message_of([&] { static_cast<void>(a.sequence(0)); }) != "");
  c = std::move(b);
  CHECK(b.batch() == 0);
  // NOLINTEND(bugprone-use-after-move)
  CHECK(pool->free_pages() == 4);
  CHECK(keys_of(c, 1) == floats{11});
  CHECK(c.capacity() == 4);
  c.clear();
  CHECK(pool->free_pages() == 6);
}

TEST_CASE("pages in any order of memory are read through a view") {
  // Pages x tokens x heads x width, as others keep them.
  array key({4, 2, 3, 2}, attn::heads_order::blhd), value({4, 2, 3, 1}, attn::heads_order::blhd);
  for (index i = 0; i < key.shape().size(); ++i) key.data()[i] = static_cast<float>(i);
  for (index i = 0; i < value.shape().size(); ++i) value.data()[i] = -static_cast<float>(i);
  const std::vector<std::int32_t> tables{2, 0, -1, 3, 2, 1};
  const std::vector<int> lengths{4, 9};
  const attn::paged_view view(key, value, tables, lengths);
  static_assert(attn::KeyValueCache<decltype(view)>);
  CHECK(view.batch() == 2);
  CHECK(view.heads() == 2);
  CHECK(view.key_width() == 2);
  CHECK(view.value_width() == 1);
  for (index b = 0; b < 2; ++b) {
    for (index j = 0; j < view.length(b); ++j) {
      const index page = tables[static_cast<std::size_t>(b * 3 + j / 3)], row = j % 3;
      CHECK(read(view.sequence(b), true, 2, 2, j) ==
            floats{key(page, 0, row, 0), key(page, 0, row, 1), key(page, 1, row, 0),
                   key(page, 1, row, 1)});
      CHECK(read(view.sequence(b), false, 2, 1, j) ==
            floats{value(page, 0, row, 0), value(page, 1, row, 0)});
    }
  }

  const auto said = [&](std::span<const std::int32_t> table, const std::vector<index>& length) {
    return message_of([&] { attn::paged_view<float>(key, value, table, length); });
  };
  CHECK(said(tables, {6, 9}) == "");
  CHECK(said(tables, {7, 9}) ==
        "the table of sequence 0 has page -1 at 2, it should be within the 4 pages");
  CHECK(said(std::vector<std::int32_t>{0, 4}, {4}) ==
        "the table of sequence 0 has page 4 at 1, it should be within the 4 pages");
  CHECK(said(tables, {4, 10}) ==
        "lengths[1] is 10, it should be within 0 ... 9, its table's 3 pages of 3");
  CHECK(said(tables, {-1, 9}) ==
        "lengths[0] is -1, it should be within 0 ... 9, its table's 3 pages of 3");
  CHECK(said(tables, {1, 1, 1, 1}) ==
        "tables has 6 entries, it should be as many for each of 4 sequences");
  CHECK(said(tables, {}) != "");
  CHECK(said({}, {}) == "");
  CHECK(message_of([&] { static_cast<void>(view.sequence(2)); }) ==
        "sequence 2 is not within the 2 of this paged_view");
  const array fewer({3, 2, 3, 1});
  CHECK(message_of([&] { attn::paged_view<float>(key, fewer, tables, lengths); }) ==
        "value has 3 pages of 2 heads and 3 tokens, key has 4 of 2 and 3");
  const array empty({4, 2, 0, 1});
  CHECK(message_of([&] { attn::paged_view<float>(empty, empty, tables, lengths); }) != "");
}

TEST_CASE("a scheduler may have tables of its own on a pool") {
  const auto pool = pool_of(2, 2);
  const std::int32_t page = pool->take();
  pool->keys()(page, 0, 1, 0) = 5;
  const std::vector<std::int32_t> table{page}, lengths{2};
  const attn::paged_view view(pool->keys(), pool->values(), table, lengths);
  CHECK(read(view.sequence(0), true, 1, 1, 1) == floats{5});
  CHECK(&pool->keys()(1, 1, 0, 0) == &pool->keys()(0, 1, 1, 0) + pool->key_width());
  CHECK(&pool->values()(1, 1, 0, 0) == &pool->values()(0, 1, 1, 0) + pool->value_width());
  pool->share(page);
  CHECK(pool->references(page) == 2);
  pool->give_back(page);
  pool->give_back(page);
  CHECK(pool->free_pages() == 2);
  CHECK(message_of([&] { pool->give_back(page); }) == "page 0 of this page_pool is free");
  CHECK(message_of([&] { pool->share(1); }) == "page 1 of this page_pool is free");
  CHECK(message_of([&] { pool->share(2); }) == "page 2 is not within the 2 of this page_pool");
  CHECK(message_of([&] { static_cast<void>(pool->references(-1)); }) != "");
  static_cast<void>(pool->take());
  static_cast<void>(pool->take());
  CHECK(message_of<std::length_error>([&] { static_cast<void>(pool->take()); }) ==
        "page_pool has 2 pages, none of them is free");
  CHECK(pool->references(0) == 1);
}

}  // namespace
}  // namespace attn_test
