// What it costs to compile a file with one call, and one that only includes the header.
#include "compile.hpp"

#if defined(__unix__)
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <sstream>
#include <vector>

namespace bench {
namespace {

struct cost {
  double seconds = 0;
  double peak_bytes = 0;
  bool succeeded = false;
};

/// Runs a program and waits for it; the peak is that of the largest process below it.
cost cost_of(const std::vector<std::string>& command) {
  std::vector<char*> arguments;
  for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  const auto start = std::chrono::steady_clock::now();
  const pid_t child = fork();
  if (child == 0) {
    execvp(arguments[0], arguments.data());
    _exit(127);
  }
  int status = 1;
  rusage used{};
  const bool waited = child > 0 && wait4(child, &status, 0, &used) == child;
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
#if defined(__APPLE__)
  constexpr double unit = 1;
#else
  constexpr double unit = 1024;
#endif
  return {elapsed.count(), static_cast<double>(used.ru_maxrss) * unit, waited && status == 0};
}

std::vector<std::string> words(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> result;
  for (std::string word; stream >> word;) result.push_back(word);
  return result;
}

}  // namespace

void compile(benchmark::State& state, const std::string& what, const std::string& flags) {
  std::vector<std::string> command = words(ATTN_BENCH_COMPILER);
  for (const std::string& flag : words(flags)) command.push_back(flag);
  command.insert(command.end(), {"-D" + what, "-c", ATTN_BENCH_COMPILED_FILE, "-o", "/dev/null"});
  double peak = 0;
  for (auto _ : state) {
    const cost c = cost_of(command);
    if (!c.succeeded) return state.SkipWithError("the compiler failed");
    state.SetIterationTime(c.seconds);
    peak = std::max(peak, c.peak_bytes);
  }
  state.counters["compiler_peak_bytes"] = peak;
}

}  // namespace bench

#else

void bench::compile(benchmark::State& state, const std::string&, const std::string&) {
  state.SkipWithError("needs fork and wait4");
}

#endif
