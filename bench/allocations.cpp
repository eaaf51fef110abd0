// A malloc that counts. Eigen, operator new and the C++ library all end up here, since a program's
// own malloc takes the place of the C library's.
#include "allocations.hpp"

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdlib>

#ifdef __GLIBC__
#include <malloc.h>

namespace {

std::atomic<bool> counting = false;
std::atomic<std::int64_t> held = 0;
std::atomic<std::int64_t> peak = 0;

void* taken(void* memory) {
  if (counting.load(std::memory_order_relaxed)) {
    const std::int64_t now = held += static_cast<std::int64_t>(malloc_usable_size(memory));
    std::int64_t most = peak;
    while (now > most && !peak.compare_exchange_weak(most, now)) {
    }
  }
  return memory;
}

void given_back(void* memory) {
  if (counting.load(std::memory_order_relaxed)) {
    held -= static_cast<std::int64_t>(malloc_usable_size(memory));
  }
}

}  // namespace

extern "C" {

// NOLINTBEGIN(bugprone-reserved-identifier,readability-identifier-naming): glibc's names
void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t count, std::size_t size);
void* __libc_realloc(void* memory, std::size_t size);
void* __libc_memalign(std::size_t alignment, std::size_t size);
void __libc_free(void* memory);
// NOLINTEND(bugprone-reserved-identifier,readability-identifier-naming)

void* malloc(std::size_t size) noexcept { return taken(__libc_malloc(size)); }
void* calloc(std::size_t count, std::size_t size) noexcept {
  return taken(__libc_calloc(count, size));
}
void* realloc(void* memory, std::size_t size) noexcept {
  given_back(memory);
  return taken(__libc_realloc(memory, size));
}
void* memalign(std::size_t alignment, std::size_t size) noexcept {
  return taken(__libc_memalign(alignment, size));
}
void* aligned_alloc(std::size_t alignment, std::size_t size) noexcept {
  return memalign(alignment, size);
}
int posix_memalign(void** memory, std::size_t alignment, std::size_t size) noexcept {
  *memory = memalign(alignment, size);
  return *memory == nullptr ? ENOMEM : 0;
}
void free(void* memory) noexcept {
  given_back(memory);
  __libc_free(memory);
}

}  // extern "C"

void bench::start_counting() {
  held = 0;
  peak = 0;
  counting = true;
}

std::optional<bench::heap_use> bench::stop_counting() {
  counting = false;
  return heap_use{.peak = peak, .kept = held};
}

#else

void bench::start_counting() {}
std::optional<bench::heap_use> bench::stop_counting() { return std::nullopt; }

#endif
