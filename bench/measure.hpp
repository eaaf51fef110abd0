// One benchmark: a call that is checked against the reference, its workspace counted, then calls
// that are timed between measurements of the machine's peak.
#pragma once

#include <benchmark/benchmark.h>

#include <chrono>

#include "allocations.hpp"
#include "peak.hpp"
#include "workload.hpp"

namespace bench {

/// A workload and what is found out about it once, before it is timed.
struct benchmark_case {
  struct facts {
    double visible_pairs = 0;  // of all heads
    std::optional<std::int64_t> workspace;
  };

  workload work;
  std::optional<facts> checked;
};

/// What of the reference a benchmark computes, and its FLOPs for each visible pair; 0 for what is
/// no product: such a benchmark counts scores a second instead, hidden ones among them.
struct computes {
  std::vector<double> reference_row::* stage = nullptr;
  double flops_a_pair = 0;
};

/// Benchmarks `call`, which computes `what` for all heads; computed(head, row, column) reads the
/// result.
template <class Scalar, class Call, class Computed>
void measure(benchmark::State& state, benchmark_case& c, const inputs<Scalar>& in,
             const computes& what, const Call& call, const Computed& computed) {
  if (!c.checked) {
    const std::optional<std::int64_t> workspace = workspace_of(call);
    const std::string fault = disagreement(c.work, in, what.stage, computed);
    if (!fault.empty()) return state.SkipWithError(fault.c_str());
    const auto heads = static_cast<double>(c.work.all_heads());
    c.checked = {heads * visible_pairs(c.work, in), workspace};
  }

  using clock = std::chrono::steady_clock;
  const double flops = c.checked->visible_pairs * what.flops_a_pair;
  constexpr index stretches = 16;  // between which the peak is measured
  const index stretch = std::max<index>(state.max_iterations / stretches, 1);
  std::optional<fraction_of_peak<Scalar>> of_peak;
  if (flops > 0) of_peak.emplace(c.work.threads);
  std::chrono::duration<double> elapsed{0};
  index calls = 0;
  auto start = clock::now();
  for (auto _ : state) {
    call();
    benchmark::ClobberMemory();
    if (++calls % stretch != 0) continue;
    const std::chrono::duration<double> time = clock::now() - start;
    elapsed += time;
    state.PauseTiming();
    if (of_peak) of_peak->add(static_cast<double>(stretch) * flops / time.count());
    state.ResumeTiming();
    start = clock::now();
  }
  const double calls_a_second = static_cast<double>(calls - calls % stretch) / elapsed.count();
  if (of_peak) {
    state.counters["GFLOPS"] = calls_a_second * flops / 1e9;
    state.counters["of_peak"] = of_peak->median();
  } else {
    const index scores = c.work.all_heads() * c.work.queries * c.work.keys;
    state.counters["Gscores"] = calls_a_second * static_cast<double>(scores) / 1e9;
  }
  if (c.checked->workspace) {
    state.counters["workspace_bytes"] = static_cast<double>(*c.checked->workspace);
  }
}

/// Calls use(mask, score_mod) with what the feature stands for in the library.
template <class Scalar, class Use>
void with_feature(const workload& w, const inputs<Scalar>& in, const Use& use) {
  switch (w.feature) {
    case feature::none:
    case feature::column_major:
    case feature::blhd:
    case feature::contiguous:
    case feature::paged16:
    case feature::scattered16:
    case feature::dropout:
      return use(attn::none(), attn::identity());
    case feature::causal:
      return use(attn::causal(), attn::identity());
    case feature::window256:
      return use(attn::sliding_window(window, 0), attn::identity());
    case feature::additive:
      return use(in.bias, attn::identity());
    case feature::bias:
    case feature::bias_gradient:
      return use(attn::heads_view<const Scalar>(in.bias.data(), {1, w.heads, w.queries, w.keys},
                                                {0, 0, w.keys, 1}),
                 attn::identity());
    case feature::boolean:
      return use(in.visible, attn::identity());
    case feature::alibi:
      return use(attn::none(), attn::alibi(slope));
    case feature::lambda:
      return use(attn::none(), [](auto s, attn::position at) {
        return s - Scalar(slope) * Scalar(std::abs(at.query - at.key));
      });
    case feature::softcap:
      return use(attn::none(), attn::softcap(cap));
  }
}

// What a name's first part stands for; instantiated for float and double.
template <class Scalar>
void forward(benchmark::State& state, benchmark_case& c);
template <class Scalar>
void backward(benchmark::State& state, benchmark_case& c);
template <class Scalar>
void stage(benchmark::State& state, benchmark_case& c);
template <class Scalar>
void naive(benchmark::State& state, benchmark_case& c);

// For float alone; packed and append take the time by hand.
void packed(benchmark::State& state, benchmark_case& c);
void decode(benchmark::State& state, benchmark_case& c);
void append(benchmark::State& state, benchmark_case& c);

}  // namespace bench
