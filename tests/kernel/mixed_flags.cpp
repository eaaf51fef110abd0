// Files of one program that are built for different instruction sets: each chooses by its own
// build, and they agree.
#include "kernel/mixed_flags.hpp"

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/catch.hpp"

namespace {

struct build {
  std::string name;
  bool runs_here;
  mixed_flags::attend* attend;
};

std::vector<build> builds() {
  std::vector<build> all{{"plain", true, mixed_flags::plain}};
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl");
  all.push_back({"avx2", avx2, mixed_flags::avx2});
  all.push_back({"avx512", avx512, mixed_flags::avx512});
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
  if (wanted == "avx2" && !builds()[1].runs_here) {
    WARN("this machine doesn't run avx2");
    return;
  }
  mixed_flags::plain(q.data(), k.data(), v.data(), rows, width, first.data());
  int run = 0;
  for (const build& b : builds()) {
    INFO(b.name);
    if (!b.runs_here) {
      WARN("this machine doesn't run code built for " << b.name);
      continue;
    }
    std::vector<float> out(q.size());
    // Where flags name a set there is code for nothing lower.
    if ((wanted == "portable" && b.name != "plain") || (wanted == "avx2" && b.name == "avx512")) {
      CHECK_THROWS_AS(b.attend(q.data(), k.data(), v.data(), rows, width, out.data()),
                      std::invalid_argument);
      continue;
    }
    b.attend(q.data(), k.data(), v.data(), rows, width, out.data());
    for (std::size_t i = 0; i < out.size(); ++i) REQUIRE(out[i] == Approx(first[i]).margin(1e-6));
    ++run;
  }
  CHECK(run >= 1);
}

}  // namespace
