// What every header stands on: the index type, and the one way in which bad input is refused.
// Without exceptions (-fno-exceptions) a refusal prints its message and aborts.
#pragma once

#if (defined(_MSVC_LANG) ? _MSVC_LANG : __cplusplus) < 202002L
#error "attn needs C++20: compile with -std=c++20"
#endif

#include <attn/version.hpp>
#include <concepts>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>

#if defined(__cpp_exceptions) || defined(__EXCEPTIONS) || defined(_CPPUNWIND)
#define ATTN_HAS_EXCEPTIONS 1
#else
#define ATTN_HAS_EXCEPTIONS 0
#endif

#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || \
    (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error \
    "attn: attention needs NaN and infinity, and sums in their order: leave out -ffast-math, -Ofast, -ffinite-math-only, -fassociative-math and -funsafe-math-optimizations"
#endif

// Registers of 80 bits keep what the exponential rounds away on purpose.
#if defined(__i386__) && (__FLT_EVAL_METHOD__ == 2 || __FLT_EVAL_METHOD__ == -1)
#error "attn: on 32-bit x86 compile with -msse2 -mfpmath=sse"
#endif

// Where the compiler can build a part of a file for an instruction set of its own.
#if defined(__GNUC__) && defined(__x86_64__)
#define ATTN_X86 1
#else
#define ATTN_X86 0
#endif
#if defined(__GNUC__) && defined(__aarch64__) && defined(__ARM_NEON)
#define ATTN_NEON 1
#else
#define ATTN_NEON 0
#endif

// The instruction set that the flags of the build name, if any.
#if ATTN_X86 && defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__) && \
    defined(__AVX512VL__)
#define ATTN_BUILT_FOR_AVX512 1
#define ATTN_BUILT_FOR_AVX2 0
#elif ATTN_X86 && defined(__AVX2__) && defined(__FMA__)
#define ATTN_BUILT_FOR_AVX512 0
#define ATTN_BUILT_FOR_AVX2 1
#else
#define ATTN_BUILT_FOR_AVX512 0
#define ATTN_BUILT_FOR_AVX2 0
#endif

// Everything stands in namespace attn::ATTN_ABI, whose name has the version and what else of a
// build makes other code or layouts of the same source. So files that differ in one of these can
// meet in one program, for the linker takes nothing of theirs for the same; where they hand each
// other a type of attn, it finds no such function. All of the version, since code of ours that is
// compiled into programs may change with each. Flags for what processors with one of these sets
// differ in are not told apart (-march=skylake-avx512, -march=sapphirerapids): one for all files.
#if ATTN_BUILT_FOR_AVX512
#define ATTN_ABI_MACHINE avx512
#elif defined(__AVX512F__)
#define ATTN_ABI_MACHINE avx512f
#elif ATTN_BUILT_FOR_AVX2
#define ATTN_ABI_MACHINE avx2
#elif defined(__AVX2__)
#define ATTN_ABI_MACHINE avx2_without_fma
#elif defined(__FMA__)
#define ATTN_ABI_MACHINE fma
#elif defined(__AVX__)
#define ATTN_ABI_MACHINE avx
#elif defined(__SSE4_1__)
#define ATTN_ABI_MACHINE sse4
#else
#define ATTN_ABI_MACHINE any
#endif
#if ATTN_HAS_EXCEPTIONS
#define ATTN_ABI_REFUSAL throws
#else
#define ATTN_ABI_REFUSAL aborts
#endif
#define ATTN_ABI_NAME(major, minor, patch, machine, refusal) \
  v##major##_##minor##_##patch##_##machine##_##refusal
#define ATTN_ABI_EXPANDED(...) ATTN_ABI_NAME(__VA_ARGS__)
#define ATTN_ABI                                                                                  \
  ATTN_ABI_EXPANDED(ATTN_VERSION_MAJOR, ATTN_VERSION_MINOR, ATTN_VERSION_PATCH, ATTN_ABI_MACHINE, \
                    ATTN_ABI_REFUSAL)

// Vectors live in registers only where they are inlined; loops over registers must be unrolled.
#if defined(__GNUC__)
#define ATTN_INLINE inline __attribute__((always_inline))
#define ATTN_NOINLINE __attribute__((noinline))
// Into the first cache (locality 3), or only into the second one (2).
#define ATTN_PREFETCH(address, locality) \
  __builtin_prefetch(reinterpret_cast<const void*>(address), 0, locality)
#else
#define ATTN_INLINE inline
#define ATTN_NOINLINE
#define ATTN_PREFETCH(address, locality) static_cast<void>(address)
#endif
#if defined(__clang__)
#define ATTN_UNROLL _Pragma("unroll")
#elif defined(__GNUC__)
#define ATTN_UNROLL _Pragma("GCC unroll 32")
#else
#define ATTN_UNROLL
#endif

// The engine is compiled in every file with a call, which takes some seconds. A program with many
// such files can have it once: ATTN_ENGINE_ELSEWHERE defined for all of them, and ATTN_ENGINE_HERE
// for one file that includes this library, built with the same flags.
#if defined(ATTN_ENGINE_HERE)
#define ATTN_ENGINE_INSTANCE template
#elif defined(ATTN_ENGINE_ELSEWHERE)
#define ATTN_ENGINE_INSTANCE extern template
#endif

namespace attn::inline ATTN_ABI {

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

/// A part of a message, which it refers to: a text, or what `to_text` turns into one.
class message_part {
 public:
  constexpr explicit message_part(std::string_view text) : text_(text) {}
  template <class T>
    requires(!std::convertible_to<const T&, std::string_view>)
  constexpr explicit message_part(const T& value)
      : value_(&value),
        text_of_([](const void* v) { return to_text(*static_cast<const T*>(v)); }) {}

  friend std::string to_text(const message_part& part) {
    return part.value_ == nullptr ? std::string(part.text_) : part.text_of_(part.value_);
  }

 private:
  std::string_view text_;
  const void* value_ = nullptr;
  std::string (*text_of_)(const void*) = nullptr;
};

/// A message of parts, for where it is wanted: each call site takes little to compile.
ATTN_NOINLINE inline std::string joined(std::initializer_list<message_part> parts) {
  std::string message;
  for (const message_part& part : parts) message += to_text(part);
  return message;
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
    refuse(joined({message_part(parts)...}));
  }
}

/// x as a T. A finite number beyond the range of T becomes the largest of T, not infinity.
template <class T, class X>
constexpr T saturated(const X& x) {
  if constexpr (std::floating_point<T> && std::floating_point<X> && sizeof(X) > sizeof(T)) {
    constexpr X most = std::numeric_limits<T>::max();
    if (x - x == X(0)) return static_cast<T>(x > most ? most : x < -most ? -most : x);
  }
  return static_cast<T>(x);
}

}  // namespace detail
}  // namespace attn::inline ATTN_ABI
