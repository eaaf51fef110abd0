// attn_bench: attention by size and feature, beside naive Eigen and the machine's peak.
// Run it on one pinned core of a quiet machine: taskset -c 0 attn_bench --benchmark_filter=forward
#include <fstream>
#include <iostream>
#include <sstream>

#include "compile.hpp"
#include "measure.hpp"

namespace {

// Every combination of a line's words is a benchmark: what/type/sizes/feature/threads:n.
// Sizes: batch × heads × length × width; 8:2 heads where two serve as keys and values, 1:4096
// lengths where one query attends to 4,096 keys.
struct line {
  const char* what;
  const char* types;
  const char* sizes;
  const char* features;
  const char* threads;
};

constexpr line table[] = {
    // The one call.
    {"forward", "float", "1x8x512x64 1x8x1024x64 1x8x1024x128", "none causal", "1"},
    {"forward", "float", "1x8x4096x64 1x8x4096x128", "none causal", "1"},
    {"forward", "float", "1x12x197x64 1x12x128x64 4x8x128x64", "none", "1"},
    {"forward", "float", "1x8x1024x64", "additive boolean alibi lambda softcap", "1"},
    {"forward", "float", "1x8x1024x64", "column_major", "1"},
    {"forward", "float", "1x1x512x64 1x1x2048x64 1x1x16384x64 1x1x65536x64", "window256", "1"},
    {"forward", "float", "1x8:2x1024x64 1x32:8x1024x128", "causal", "1"},
    {"forward", "float", "4x8x1024x64", "none blhd", "1"},
    {"forward", "float", "1x8x77:4096x64", "none", "1"},
    {"forward", "float", "1x8x1:4096x64 1x32:8x1:8192x128", "none causal", "1"},
    {"forward", "float", "1x1x4x8 1x1x16x8 1x1x16x64 1x1x64x64", "none", "1"},
    {"forward", "double", "1x8x1024x64", "none causal", "1"},
    {"forward", "float", "1x8x1024x64 1x8x4096x64 1x12x197x64", "none", "2"},
    {"forward", "float", "1x8x1024x64", "causal", "2"},
    // Training: the gradients of query, key and value, counted as 2.5 times the forward pass.
    {"backward", "float", "1x8x1024x64 1x8x2048x64 1x8x2048x128", "none causal", "1"},
    {"backward", "float", "1x8x1024x64", "none", "2"},
    {"backward", "float", "2x8x1024x64", "none bias bias_gradient", "1"},
    {"backward", "float", "1x8x1024x64", "dropout", "1"},
    {"backward", "double", "1x8x1024x64", "none", "1"},
    {"forward", "float", "1x8x1024x64", "dropout", "1"},
    // Sequences of 16 lengths, one after the other in memory.
    {"packed", "float", "16x8x1024x64", "none blhd", "1"},
    // One query a head against a cache, beyond the processor's caches; and appending a token to
    // one.
    {"decode", "float", "1x32:8x1:8192x128", "contiguous paged16 scattered16", "1 2"},
    {"decode", "float", "1x32:8x1:32768x128", "contiguous paged16", "1 2"},
    {"append", "float", "1x8x1:4096x128", "contiguous paged16", "1"},
    // Naive Eigen, with the best flags of the machine.
    {"naive", "float", "1x8x512x64 1x8x1024x64 1x8x1024x128", "none causal", "1"},
    {"naive", "float", "1x8x4096x64 1x8x4096x128", "none causal", "1"},
    {"naive", "float", "1x12x197x64 1x12x128x64", "none", "1"},
    {"naive", "float", "1x8x1:4096x64 1x32:8x1:8192x128", "none", "1"},
    {"naive", "float", "1x1x4x8 1x1x16x8 1x1x16x64 1x1x64x64", "none", "1"},
    {"naive", "double", "1x8x1024x64", "none causal", "1"},
    // The stages.
    {"score", "float double", "1x1x64x64 1x8x1024x64", "none", "1"},
    {"scale", "float double", "1x1x64x64 1x8x1024x64", "none", "1"},
    {"score_mod", "float", "1x1x64x64 1x8x1024x64", "alibi lambda softcap", "1"},
    {"mask", "float", "1x1x64x64 1x8x1024x64", "causal window256 additive boolean", "1"},
    {"softmax", "float double", "1x1x64x64 1x8x1024x64", "none causal", "1"},
    {"weighted_sum", "float double", "1x1x64x64 1x8x1024x64", "none", "1"},
};

std::vector<std::string> words(const char* text) {
  std::istringstream stream(text);
  std::vector<std::string> result;
  for (std::string word; stream >> word;) result.push_back(word);
  return result;
}

template <class Scalar>
void run(benchmark::State& state, bench::benchmark_case& c) {
  if (c.work.what == "forward") return bench::forward<Scalar>(state, c);
  if (c.work.what == "backward") return bench::backward<Scalar>(state, c);
  if (c.work.what == "naive") return bench::naive<Scalar>(state, c);
  if (c.work.what == "packed") return bench::packed(state, c);
  if (c.work.what == "decode") return bench::decode(state, c);
  if (c.work.what == "append") return bench::append(state, c);
  bench::stage<Scalar>(state, c);
}

void add(const std::string& name) {
  const auto body =
      [c = bench::benchmark_case{bench::parse(name), {}}](benchmark::State& state) mutable {
        c.work.type == "double" ? run<double>(state, c) : run<float>(state, c);
      };
  auto* const registered = benchmark::RegisterBenchmark(name.c_str(), body);
  if (name.starts_with("packed/") || name.starts_with("append/")) registered->UseManualTime();
}

void add_each(const line& l) {
  for (const std::string& type : words(l.types)) {
    for (const std::string& sizes : words(l.sizes)) {
      for (const std::string& feature : words(l.features)) {
        for (const std::string& threads : words(l.threads)) {
          std::string name = l.what;
          for (const std::string& part : {type, sizes, feature, "threads:" + threads}) {
            name.append("/").append(part);
          }
          add(name);
        }
      }
    }
  }
}

void add_compile() {
  for (const std::string what : {"EIGEN_CORE", "INCLUDE_ATTENTION", "INCLUDE", "ONE_CALL"}) {
    for (const std::string flags : {"-O2", "-O2 -march=native"}) {
      const std::string name = "compile/" + what + "/" + flags;
      benchmark::RegisterBenchmark(
          name.c_str(),
          [what, flags](benchmark::State& state) { bench::compile(state, what, flags); })
          ->UseManualTime()
          ->Iterations(3)
          ->Unit(benchmark::kMillisecond);
    }
  }
}

std::string processor() {
  std::ifstream information("/proc/cpuinfo");
  for (std::string text; std::getline(information, text);) {
    if (text.starts_with("model name")) return text.substr(text.find(':') + 2);
  }
  return "unknown";
}

std::string peaks() {
  std::ostringstream text;
  text.precision(4);
  text << bench::fma_peak<float>() / 1e9 << " float, " << bench::fma_peak<double>() / 1e9
       << " double";
  return text.str();
}

}  // namespace

int main(int argc, char** argv) {
  // Repeated calls of a fifth of a second each, unless the command line says otherwise.
  std::string min_time = "--benchmark_min_time=0.2";
  std::vector<char*> arguments(argv, argv + argc);
  arguments.insert(arguments.begin() + 1, min_time.data());
  int count = static_cast<int>(arguments.size());
  benchmark::Initialize(&count, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) return 1;

  benchmark::AddCustomContext("processor", processor());
  benchmark::AddCustomContext("peak_instruction_set", std::string(bench::fma_instruction_set()));
  benchmark::AddCustomContext("peak_GFLOPS_of_a_thread", peaks());
  for (const line& l : table) add_each(l);
  add_compile();
  benchmark::RunSpecifiedBenchmarks();
  std::cerr << "peak_GFLOPS_of_a_thread after: " << peaks() << '\n';
  benchmark::Shutdown();
}
