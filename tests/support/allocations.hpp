// Counts what is allocated: Eigen's allocations where it asks whether it may, the standard
// library's in operator new. Replaces operator new: for one source of a program, before any Eigen.
#pragma once

#include <attn/config.hpp>
#include <cstdlib>
#include <new>

namespace attn_test {

inline long allocations = 0;

inline void* counted(void* memory) {
  ++allocations;
  return memory;
}

inline void* never_null(void* memory) {
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace attn_test

// NOLINTBEGIN(misc-definitions-in-headers): what replaces them may not be inline
ATTN_NOINLINE void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return attn_test::counted(std::malloc(size == 0 ? 1 : size));
}
ATTN_NOINLINE void* operator new(std::size_t size) {
  return attn_test::never_null(operator new(size, std::nothrow));
}
ATTN_NOINLINE void* operator new(std::size_t size, std::align_val_t align) {
  const auto alignment = static_cast<std::size_t>(align);
  const std::size_t rounded = (size + alignment - 1) / alignment * alignment;
  return attn_test::never_null(attn_test::counted(std::aligned_alloc(alignment, rounded)));
}
ATTN_NOINLINE void operator delete(void* memory) noexcept { std::free(memory); }
ATTN_NOINLINE void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
ATTN_NOINLINE void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
ATTN_NOINLINE void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  std::free(memory);
}

// NOLINTEND(misc-definitions-in-headers)

// With EIGEN_RUNTIME_NO_MALLOC, Eigen asserts before each allocation that it is allowed.
#define EIGEN_RUNTIME_NO_MALLOC
// NOLINTNEXTLINE(readability-identifier-naming): the name is Eigen's
#define eigen_assert(condition) ((condition) ? void() : void(++attn_test::allocations))
#include <Eigen/Core>

namespace attn_test {

/// How often `f` allocates.
template <class F>
long allocations_of(const F& f) {
  Eigen::internal::set_is_malloc_allowed(false);
  allocations = 0;
  f();
  const long counted = allocations;
  Eigen::internal::set_is_malloc_allowed(true);
  return counted;
}

}  // namespace attn_test
