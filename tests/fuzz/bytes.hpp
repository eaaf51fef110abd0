// What a fuzz target is given, read as numbers, and how it says that something is wrong. Any bytes
// are a valid input: where they end, zeros follow.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

namespace attn_fuzz {

using index = std::ptrdiff_t;

// Ends the program, which the fuzzer, or the test that replays the corpus, reports with the input.
[[noreturn]] inline void fail(std::string_view what) {
  std::fprintf(stderr, "wrong: %.*s\n", static_cast<int>(what.size()), what.data());
  std::abort();
}
inline void require(bool ok, std::string_view what) {
  if (!ok) fail(what);
}

template <class Error, class F>
bool throws(const F& f) {
  try {
    f();
  } catch (const Error&) {
    return true;
  }
  return false;
}

class bytes {
 public:
  explicit bytes(std::span<const std::uint8_t> all) : left_(all) {}

  [[nodiscard]] bool empty() const { return left_.empty(); }

  std::uint8_t byte() {
    if (left_.empty()) return 0;
    const std::uint8_t first = left_.front();
    left_ = left_.subspan(1);
    return first;
  }
  std::uint64_t word() {
    std::uint64_t all = 0;
    for (int n = 0; n < 8; ++n) all = all << 8 | byte();
    return all;
  }
  bool flag() { return (byte() & 1) != 0; }

  // Both ends included; of 256 numbers or fewer.
  index between(index low, index high) { return low + byte() % (high - low + 1); }

  template <class T>
  const T& one_of(std::span<const T> choices) {
    return choices[byte() % choices.size()];
  }

  // As text: a length, then as many bytes as there still are of it.
  std::string_view text() {
    const std::size_t wanted = byte() + std::size_t{256} * byte();
    return rest(wanted);
  }
  std::string_view rest(std::size_t most = SIZE_MAX) {
    const auto part = left_.first(std::min(most, left_.size()));
    left_ = left_.subspan(part.size());
    return {reinterpret_cast<const char*>(part.data()), part.size()};
  }

 private:
  std::span<const std::uint8_t> left_;
};

}  // namespace attn_fuzz
