// One loop of multiply-adds, compiled once for each instruction set and chosen at run time.
#include "peak.hpp"

#include <algorithm>
#include <array>
#include <attn/kernel/instruction_set.hpp>
#include <chrono>
#include <cstddef>
#include <utility>

namespace bench {
namespace {

// Chains that do not depend on each other, one register each: enough to fill the pipelines (latency
// times units, 8 to 16), few enough to leave registers for the two factors. Values stay below their
// limit, 2. A macro, since a function called from one with a target attribute does not inherit it.
#define FMA_LOOP(name, bytes, attribute)                                 \
  template <class Scalar, std::size_t... Chain>                          \
  attribute Scalar name(long rounds, std::index_sequence<Chain...>) {    \
    constexpr std::size_t lanes = (bytes) / sizeof(Scalar);              \
    typedef Scalar vector __attribute__((vector_size(bytes)));           \
    const vector half = vector{} + Scalar(0.5);                          \
    const vector one = vector{} + Scalar(1);                             \
    vector chain[] = {vector{} + Scalar(Chain) / Scalar(32)...};         \
    for (long round = 0; round < rounds; ++round) {                      \
      ((chain[Chain] = chain[Chain] * half + one), ...);                 \
    }                                                                    \
    const vector sum = (chain[Chain] + ...);                             \
    Scalar total = 0;                                                    \
    for (std::size_t lane = 0; lane < lanes; ++lane) total += sum[lane]; \
    return total;                                                        \
  }
#if defined(__x86_64__)
FMA_LOOP(avx512_loop, 64, __attribute__((target("avx512f"))))
FMA_LOOP(avx2_loop, 32, __attribute__((target("avx2,fma"))))
#endif
FMA_LOOP(plain_loop, 16, )
#undef FMA_LOOP

// A plain sum over memory, in as many chains.
#define SUM_LOOP(name, bytes, attribute)                                       \
  attribute float name(const float* first, std::ptrdiff_t n) {                 \
    constexpr std::ptrdiff_t lanes = (bytes) / sizeof(float), chains = 8;      \
    typedef float vector __attribute__((vector_size(bytes), aligned(4)));      \
    vector chain[chains] = {};                                                 \
    for (std::ptrdiff_t i = 0; i + chains * lanes <= n; i += chains * lanes) { \
      const auto* const x = reinterpret_cast<const vector*>(first + i);        \
      chain[0] += x[0], chain[1] += x[1], chain[2] += x[2], chain[3] += x[3];  \
      chain[4] += x[4], chain[5] += x[5], chain[6] += x[6], chain[7] += x[7];  \
    }                                                                          \
    float total = 0;                                                           \
    for (const vector& c : chain) {                                            \
      for (std::ptrdiff_t lane = 0; lane < lanes; ++lane) total += c[lane];    \
    }                                                                          \
    return total;                                                              \
  }
#if defined(__x86_64__)
SUM_LOOP(avx512_sum, 64, __attribute__((target("avx512f"))))
SUM_LOOP(avx2_sum, 32, __attribute__((target("avx2"))))
#endif
SUM_LOOP(plain_sum, 16, )
#undef SUM_LOOP

#if defined(__aarch64__)
using plain_chains = std::make_index_sequence<24>;  // of 32 registers
#else
using plain_chains = std::make_index_sequence<12>;  // of 16 registers
#endif

/// The median of several short runs: a thread that loses its core for a while does not spoil it,
/// nor does a moment at which nobody else was there, which lasts too short for any work.
template <class Loop, std::size_t... Chain>
double flops_per_second(Loop loop, std::size_t lanes, std::index_sequence<Chain...> chains) {
  using clock = std::chrono::steady_clock;
  constexpr long rounds = 30'000;
  std::array<double, 21> reached{};
  for (double& run : reached) {
    const auto start = clock::now();
    [[maybe_unused]] const volatile double used = loop(rounds, chains);
    const std::chrono::duration<double> elapsed = clock::now() - start;
    const auto flops = static_cast<double>(2 * lanes * sizeof...(Chain)) * rounds;
    run = flops / elapsed.count();
  }
  const auto middle = reached.begin() + reached.size() / 2;
  std::nth_element(reached.begin(), middle, reached.end());
  return *middle;
}

}  // namespace

std::string_view fma_instruction_set() { return attn::to_string(attn::instruction_set()); }

template <class Scalar>
double fma_peak() {
#if defined(__x86_64__)
  if (attn::instruction_set() == attn::simd::avx512) {
    return flops_per_second([](auto... a) { return avx512_loop<Scalar>(a...); },
                            64 / sizeof(Scalar), std::make_index_sequence<24>{});
  }
  if (attn::instruction_set() == attn::simd::avx2) {
    return flops_per_second([](auto... a) { return avx2_loop<Scalar>(a...); }, 32 / sizeof(Scalar),
                            std::make_index_sequence<12>{});
  }
#endif
  return flops_per_second([](auto... a) { return plain_loop<Scalar>(a...); }, 16 / sizeof(Scalar),
                          plain_chains{});
}

float sum(const float* first, std::ptrdiff_t n) {
#if defined(__x86_64__)
  if (attn::instruction_set() == attn::simd::avx512) return avx512_sum(first, n);
  if (attn::instruction_set() == attn::simd::avx2) return avx2_sum(first, n);
#endif
  return plain_sum(first, n);
}

template double fma_peak<float>();
template double fma_peak<double>();

}  // namespace bench
