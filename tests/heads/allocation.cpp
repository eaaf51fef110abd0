// With a workspace, calls on heads, packed sequences and caches allocate nothing after the first.
#include "support/allocations.hpp"
// It comes before what it counts.
#include <attn/cache_attention.hpp>
#include <attn/heads_attention.hpp>
#include <attn/paged_cache.hpp>
#include <attn/varlen.hpp>

#include "support/catch.hpp"

namespace attn_test {
namespace {

using attn::heads_array;

heads_array<float> ones(const attn::heads_shape& shape) {
  heads_array<float> a(shape);
  for (attn::index i = 0; i < shape.size(); ++i) a.data()[i] = static_cast<float>(i % 7);
  return a;
}

TEST_CASE("a call on heads allocates nothing after the first") {
  attn::workspace workspace;
  for (const attn::index queries : {1, 40}) {
    const auto q = ones({20, 4, queries, 64}), k = ones({20, 2, 1500, 64});
    heads_array<float> out, lse;
    const std::vector<int> lengths(20, 1400);
    const std::vector<float> sinks(4, 1);
    const auto call = [&] {
      attn::scaled_dot_product_attention_into(out, q, k, k, attn::causal(), attn::softcap(3),
                                              {.alignment = attn::bottom_right,
                                               .key_lengths = lengths,
                                               .log_sum_exp = lse,
                                               .sink = sinks,
                                               .workspace = &workspace});
    };
    call();
    CHECK(allocations_of(call) == 0);
  }
}

TEST_CASE("packed sequences allocate nothing after the first call") {
  attn::workspace workspace;
  const auto q = ones({1, 4, 300, 16});
  heads_array<float> out;
  std::vector<int> starts;
  for (int n = 0; n <= 300; n += 10) starts.push_back(n);
  const auto call = [&] {
    attn::packed_attention_into(out, q, q, q, starts, attn::causal(), {.workspace = &workspace});
  };
  call();
  CHECK(allocations_of(call) == 0);
}

template <class Cache>
void check_steps(Cache cache, attn::index tokens = 1) {
  attn::workspace workspace;
  const attn::index width = cache.key_width();
  const auto q = ones({2, 4, tokens, width}), k = ones({2, 2, 1, width});
  heads_array<float> out;
  const auto step = [&] {
    cache.append(k, k);
    attn::scaled_dot_product_attention_into(
        out, q, cache, attn::sliding_window(20, 0),
        {.alignment = attn::bottom_right, .workspace = &workspace});
  };
  step();
  long all = 0;
  for (int n = 1; n < 1500; ++n) all += allocations_of(step);
  CHECK(all == 0);
  cache.truncate(1400);
  CHECK(allocations_of(step) == 0);
}

TEST_CASE("a step of generation allocates nothing") {
  const attn::kv_cache_shape shape{.batch = 2, .capacity = 1500, .heads = 2, .key_width = 16};
  check_steps(attn::contiguous_cache<float>(shape));
  check_steps(attn::ring_cache<float>(shape, 21));
  for (const attn::index width : {64, 256}) {
    attn::contiguous_cache<float> wide(
        {.batch = 2, .capacity = 1510, .heads = 2, .key_width = width});
    for (const attn::index tokens : {1, 2, 8}) check_steps(wide, tokens);
  }
  check_steps(
      attn::paged_cache<float>(std::make_shared<attn::page_pool<float>>(attn::page_pool_shape{
                                   .heads = 2, .key_width = 16, .page_size = 16, .pages = 200}),
                               2));
}

// 32 heads leave so much of each 512 keys that memory has to be asked for.
template <class Cache>
void check_long_steps(Cache cache) {
  attn::workspace workspace;
  const auto q = ones({1, 32, 1, 128}), k = ones({1, 2, 1, 128}), many = ones({1, 2, 990, 128});
  heads_array<float> out;
  const auto steps = [&] {
    long all = 0;
    for (int n = 0; n < 40; ++n) {
      cache.append(k, k);
      all += allocations_of([&] {
        attn::scaled_dot_product_attention_into(
            out, q, cache, {.alignment = attn::bottom_right, .workspace = &workspace});
      });
    }
    return all;
  };
  CHECK(steps() > 0);  // the first one
  for (int n = 0; n < 5; ++n) {
    cache.append(many, many);
    CHECK(steps() == 0);
  }
}

TEST_CASE("... however long a sequence becomes") {
  const attn::kv_cache_shape shape{.capacity = 5300, .heads = 2, .key_width = 128};
  check_long_steps(attn::contiguous_cache<float>(shape));
  check_long_steps(attn::ring_cache<float>(shape, 4000));
  check_long_steps(
      attn::paged_cache<float>(std::make_shared<attn::page_pool<float>>(attn::page_pool_shape{
                                   .heads = 2, .key_width = 128, .page_size = 16, .pages = 332}),
                               1));
}

}  // namespace
}  // namespace attn_test
