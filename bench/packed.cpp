// Packed sequences of lengths from a sixteenth of the longest up to it, beside the same sequences
// in calls of their own, in turns.
#include "measure.hpp"

namespace bench {
namespace {

using seconds = std::chrono::duration<double>;

template <class F>
double time_of(const F& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return seconds(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

void packed(benchmark::State& state, benchmark_case& c) {
  const workload& w = c.work;
  std::vector<std::int64_t> starts{0};
  double pairs = 0;
  for (index n = 1; n <= w.batch; ++n) {
    const index length = w.queries * n / w.batch;
    starts.push_back(starts.back() + length);
    pairs += static_cast<double>(w.heads * length * length);
  }
  workload all = w;
  all.batch = 1;
  all.queries = all.keys = starts.back();
  const inputs<float> in(all);
  tensor<float> out({1, w.heads, all.queries, w.width}, w.feature);
  tensor<float> alone({1, w.heads, all.queries, w.width}, w.feature);
  attn::options options;
  if (w.threads > 1) options.executor = attn::std_threads(w.threads);

  const auto packed_call = [&] {
    attn::packed_attention_into(out.heads(), in.query.heads(), in.key.heads(), in.value.heads(),
                                starts, options);
  };
  const auto single_calls = [&] {
    for (std::size_t n = 0; n + 1 < starts.size(); ++n) {
      const auto part = [&](const auto& of) {
        return of.tokens(starts[n], starts[n + 1] - starts[n]);
      };
      attn::scaled_dot_product_attention_into(part(alone.heads()), part(in.query.heads()),
                                              part(in.key.heads()), part(in.value.heads()),
                                              options);
    }
  };
  packed_call();
  single_calls();
  for (index i = 0; i < out.size(); ++i) {
    if (out.data()[i] != alone.data()[i]) return state.SkipWithError("differs from single calls");
  }

  double of_packed = 0;
  double of_single = 0;
  const double flops = pairs * 4 * static_cast<double>(w.width);
  fraction_of_peak<float> of_peak(w.threads);
  for (auto _ : state) {
    of_single += time_of(single_calls);
    const double time = time_of(packed_call);
    of_packed += time;
    state.SetIterationTime(time);
    of_peak.add(flops / time);
  }
  state.counters["of_peak"] = of_peak.median();
  state.counters["of_single_calls"] = of_single / of_packed;
}

}  // namespace bench
