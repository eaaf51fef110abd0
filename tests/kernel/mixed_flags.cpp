// Files of one program that are built for different instruction sets, or with another version of
// the library: each has its own, and they agree.
#include "kernel/mixed_flags.hpp"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/catch.hpp"

namespace {

using mixed_flags::build;

// Those that this machine runs.
std::vector<build> builds() {
  std::vector<build> all{mixed_flags::plain(), mixed_flags::aborts(), mixed_flags::next()};
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl");
  if (avx2) all.push_back(mixed_flags::avx2());
  if (avx512) all.push_back(mixed_flags::avx512());
  if (!avx2) WARN("this machine doesn't run code built for avx2");
  if (!avx512) WARN("this machine doesn't run code built for avx512");
#endif
  return all;
}

TEST_CASE("files built with different flags link into one program and agree") {
  constexpr int rows = 70, width = 20;
  std::vector<float> q(rows * width), k(q.size()), v(q.size()), first(q.size());
  for (std::size_t i = 0; i < q.size(); ++i) {
    q[i] = static_cast<float>(i % 17) / 8 - 1;
    k[i] = static_cast<float>(i % 23) / 11 - 1;
    v[i] = static_cast<float>(i % 31) / 15 - 1;
  }
  const char* const lowered = std::getenv("ATTN_INSTRUCTION_SET");
  const std::string wanted = lowered == nullptr ? "" : lowered;
  const std::vector<build> all = builds();
  if (wanted == "avx2" && std::none_of(all.begin(), all.end(), [](const build& b) {
        return b.name == std::string("avx2");
      })) {
    return;
  }
  all[0].run(q.data(), k.data(), v.data(), rows, width, first.data());
  for (const build& b : all) {
    INFO(b.name);
    std::vector<float> out(q.size());
    // Where flags name a set there is code for nothing lower.
    const std::string name = b.name;
    const bool has_avx2 = name == "avx2" || name == "avx512";
    if ((wanted == "portable" && has_avx2) || (wanted == "avx2" && name == "avx512")) {
      CHECK_THROWS_AS(b.run(q.data(), k.data(), v.data(), rows, width, out.data()),
                      std::invalid_argument);
      continue;
    }
    b.run(q.data(), k.data(), v.data(), rows, width, out.data());
    for (std::size_t i = 0; i < out.size(); ++i) REQUIRE(out[i] == Approx(first[i]).margin(1e-6));
  }
}

TEST_CASE("the linker takes nothing of two builds or versions for the same") {
  const std::vector<build> all = builds();
  for (const build& a : all) {
    for (const build& b : all) {
      for (std::size_t n = 0; n < a.functions.size(); ++n) {
        INFO(a.name << ", " << b.name << ", function " << n);
        CHECK((a.functions[n] == b.functions[n]) == (&a == &b));
      }
    }
  }
}

}  // namespace
