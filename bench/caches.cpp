// Generation: one query a head against a cache, by the bandwidth that keys and values are read
// with, and what it costs to append a token.
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "measure.hpp"

namespace bench {
namespace {

using clock = std::chrono::steady_clock;

double seconds_since(clock::time_point start) {
  return std::chrono::duration<double>(clock::now() - start).count();
}

/// A cache full of the keys and values of a workload.
attn::contiguous_cache<float> filled_contiguous(const workload& w, const inputs<float>& in) {
  attn::contiguous_cache<float> cache(
      {.batch = w.batch, .capacity = w.keys, .heads = w.key_heads, .key_width = w.width});
  cache.append(in.key.heads(), in.value.heads());
  return cache;
}
attn::paged_cache<float> filled_paged(const workload& w, const inputs<float>& in) {
  constexpr index size = 16;
  const auto pool = std::make_shared<attn::page_pool<float>>(
      attn::page_pool_shape{.heads = w.key_heads,
                            .key_width = w.width,
                            .page_size = size,
                            .pages = w.batch * (w.keys + size - 1) / size});
  if (w.feature == feature::scattered16) {
    std::vector<std::int32_t> pages;
    while (pool->free_pages() > 0) pages.push_back(pool->take());
    std::shuffle(pages.begin(), pages.end(), std::mt19937(1));
    for (const std::int32_t page : pages) pool->give_back(page);
  }
  attn::paged_cache<float> cache(pool, w.batch);
  cache.append(in.key.heads(), in.value.heads());
  return cache;
}

/// Bytes a second that `threads` threads read of the memory of these caches, each its part.
template <class Cache>
double read_bandwidth(const std::vector<Cache>& caches, const workload& w, int threads) {
  const index numbers = w.batch * w.key_heads * w.keys * w.width;
  const auto start = clock::now();
  std::vector<std::thread> all;
  std::vector<float> sums(static_cast<std::size_t>(threads));
  for (int t = 0; t < threads; ++t) {
    all.emplace_back([&, t] {
      const index first = numbers * t / threads;
      const index count = numbers * (t + 1) / threads - first;
      for (const Cache& cache : caches) {
        const attn::stored_keys<float> stored = cache.sequence(0);
        sums[static_cast<std::size_t>(t)] += sum(stored.key + first, count);
        sums[static_cast<std::size_t>(t)] += sum(stored.value + first, count);
      }
    });
  }
  for (std::thread& thread : all) thread.join();
  benchmark::DoNotOptimize(sums.data());
  const auto bytes = static_cast<double>(2 * numbers * index{sizeof(float)});
  return bytes * static_cast<double>(caches.size()) / seconds_since(start);
}

/// Caches in turn, so many that none is still in the processor's when its turn comes again.
template <class Fill>
void decode_with(benchmark::State& state, benchmark_case& c, const Fill& fill) {
  const workload& w = c.work;
  const inputs<float>& in = inputs_of<float>(w);
  const double bytes = 2.0 * sizeof(float) * static_cast<double>(in.key.size());
  constexpr double unknown = 1 << 27;  // more than what no machine says of its caches
  const double beyond =
      2 * std::max(unknown / 2, static_cast<double>(sysconf(_SC_LEVEL3_CACHE_SIZE)));
  std::vector<decltype(fill(w, in))> caches;
  while (caches.empty() || static_cast<double>(caches.size()) * bytes < beyond) {
    caches.push_back(fill(w, in));
  }
  attn::workspace workspace;
  attn::options options{.workspace = &workspace};
  if (w.threads > 1) options.executor = attn::std_threads(w.threads);
  tensor<float> out({w.batch, w.heads, w.queries, w.width}, w.feature);
  std::size_t next = 0;
  const auto call = [&] {
    attn::scaled_dot_product_attention_into(out.heads(), in.query.heads(), caches[next], options);
    next = (next + 1) % caches.size();
  };
  const auto computed = [&](index head, index row, index col) {
    return double{out(head, row, col)};
  };
  call();
  const std::string fault = disagreement(w, in, &reference_row::weighted_sum, computed);
  if (!fault.empty()) return state.SkipWithError(fault.c_str());

  const double before = read_bandwidth(caches, w, w.threads);
  const auto start = clock::now();
  for (auto _ : state) call();
  const double elapsed = seconds_since(start);
  const double bandwidth = (before + read_bandwidth(caches, w, w.threads)) / 2;
  const double read = bytes * static_cast<double>(state.iterations()) / elapsed;
  state.counters["GB_a_second"] = read / 1e9;
  state.counters["of_bandwidth"] = read / bandwidth;
}

}  // namespace

void decode(benchmark::State& state, benchmark_case& c) {
  if (c.work.feature == feature::contiguous) {
    decode_with(state, c, filled_contiguous);
  } else {
    decode_with(state, c, filled_paged);
  }
}

void append(benchmark::State& state, benchmark_case& c) {
  const workload& w = c.work;
  const inputs<float>& in = inputs_of<float>(w);
  std::vector<float> copied(static_cast<std::size_t>(2 * in.key.size()));
  const auto run = [&](auto cache) {
    cache.clear();
    double appended = 0;
    double copying = 0;
    index at = 0;
    for (auto _ : state) {
      if (at == w.keys) {
        cache.clear();
        at = 0;
      }
      const auto key = in.key.heads().tokens(at, 1);
      const auto value = in.value.heads().tokens(at, 1);
      auto start = clock::now();
      cache.append(key, value);
      const double time = seconds_since(start);
      appended += time;
      state.SetIterationTime(time);

      // The token's rows, to memory as far apart: what is written for the first time in a while.
      start = clock::now();
      for (index h = 0; h < w.key_heads; ++h) {
        const auto bytes = static_cast<std::size_t>(w.width) * sizeof(float);
        float* const to = copied.data() + (h * w.keys + at) * w.width;
        std::memcpy(to, &key(0, h, 0, 0), bytes);
        std::memcpy(to + in.key.size(), &value(0, h, 0, 0), bytes);
      }
      benchmark::ClobberMemory();
      copying += seconds_since(start);
      ++at;
    }
    const auto rounds = static_cast<double>(state.iterations());
    state.counters["memcpy_ns"] = copying / rounds * 1e9;
    state.counters["over_memcpy_ns"] = (appended - copying) / rounds * 1e9;
  };
  if (w.feature == feature::contiguous) {
    run(filled_contiguous(w, in));
  } else {
    run(filled_paged(w, in));
  }
}

}  // namespace bench
