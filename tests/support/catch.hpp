// Catch2, version 2 or 3, with the names that differ between them as version 3 has them.
// Tests include this and neither of the two.
#pragma once

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
using Catch::Approx;
#else
#include <catch2/catch.hpp>
namespace Catch::Matchers {
inline auto ContainsSubstring(const std::string& text) {  // NOLINT(*-naming): Catch2's name
  return Contains(text);
}
}  // namespace Catch::Matchers
#endif
