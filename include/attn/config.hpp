// What every header stands on: the index type, and the one way in which bad input is refused.
// Without exceptions (-fno-exceptions) a refusal prints its message and aborts.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>

#if defined(__cpp_exceptions) || defined(__EXCEPTIONS) || defined(_CPPUNWIND)
#define ATTN_HAS_EXCEPTIONS 1
#else
#define ATTN_HAS_EXCEPTIONS 0
#endif

namespace attn {

/// Counts and indices of rows and columns; the same type as `Eigen::Index`.
using index = std::ptrdiff_t;

namespace detail {

inline std::string to_text(std::string_view part) { return std::string(part); }
inline std::string to_text(std::integral auto part) { return std::to_string(part); }
inline std::string to_text(std::floating_point auto part) {
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", static_cast<double>(part));
  return text;
}

[[noreturn]] inline void refuse(const std::string& message) {
#if ATTN_HAS_EXCEPTIONS
  throw std::invalid_argument(message);
#else
  std::fprintf(stderr, "attn: %s\n", message.c_str());
  std::abort();
#endif
}

/// Throws `std::invalid_argument` with the parts joined, unless `ok`.
template <class... Parts>
constexpr void require(bool ok, const Parts&... parts) {
  if (!ok) [[unlikely]] {
    refuse((to_text(parts) + ...));
  }
}

}  // namespace detail
}  // namespace attn
