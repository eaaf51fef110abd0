// How much heap a call holds at the most: every malloc of the program is counted while it runs.
// Needs glibc, whose malloc is replaced by one that counts and calls the original.
#pragma once

#include <cstdint>
#include <optional>

namespace bench {

/// Bytes as the allocator rounds them, all threads together. Stacks are not counted.
struct heap_use {
  std::int64_t peak = 0;  // the most that was held at once, over what was held at the start
  std::int64_t kept = 0;  // what is held at the end, over what was held at the start
};

void start_counting();
/// Nothing where the C library's malloc cannot be replaced.
std::optional<heap_use> stop_counting();

/// What `call` needs beyond its result: the peak, less what it leaves allocated.
template <class Call>
std::optional<std::int64_t> workspace_of(const Call& call) {
  start_counting();
  call();
  const std::optional<heap_use> use = stop_counting();
  if (!use) return std::nullopt;
  return use->peak - use->kept;
}

}  // namespace bench
