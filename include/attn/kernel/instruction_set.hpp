// Which instruction set the engine runs on: the best that this build has code for and this machine
// runs, unless ATTN_INSTRUCTION_SET in the environment or `use_instruction_set` says otherwise.
#pragma once

#include <atomic>
#include <attn/config.hpp>
#include <cstdlib>
#include <string>
#include <string_view>

#if ATTN_X86
#include <cpuid.h>
#include <immintrin.h>
#elif ATTN_NEON
#include <arm_neon.h>
#endif

namespace attn::inline ATTN_ABI {

/// Instruction sets that the engine is written for, from low to high.
enum class simd { portable, neon, avx2, avx512 };

constexpr std::string_view to_string(simd set) {
  constexpr std::string_view names[] = {"portable", "neon", "avx2", "avx512"};
  return names[static_cast<std::size_t>(set)];
}

// Files of one program may be built for different instruction sets, and so hold different code.
namespace detail {

/// Whether this build has code for the set: where its own flags name a set, for no lower one.
constexpr bool is_compiled(simd set) {
  switch (set) {
    case simd::portable:
      return !ATTN_NEON && !ATTN_BUILT_FOR_AVX2 && !ATTN_BUILT_FOR_AVX512;
    case simd::neon:
      return ATTN_NEON;
    case simd::avx2:
      return ATTN_X86 && !ATTN_BUILT_FOR_AVX512;
    case simd::avx512:
      return ATTN_X86;
  }
  return false;
}

/// Whether there is code for the set, and the machine runs it.
inline bool is_available(simd set) {
#if ATTN_X86
  if (set == simd::avx2 && !(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))) {
    return false;
  }
  if (set == simd::avx512 &&
      !(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))) {
    return false;
  }
#endif
  return is_compiled(set);
}

/// Bytes of a core's first cache for data; 0 where the processor does not tell.
inline std::size_t first_cache_bytes() {
#if ATTN_X86
  for (const unsigned leaf : {0x4U, 0x8000001dU}) {  // of Intel, of AMD
    unsigned a = 0, b = 0, c = 0, d = 0;
    for (unsigned n = 0; __get_cpuid_count(leaf, n, &a, &b, &c, &d) != 0 && (a & 31) != 0; ++n) {
      const bool of_data = (a & 31) != 2, is_first = (a >> 5 & 7) == 1;
      const std::size_t line = (b & 4095) + 1, parts = (b >> 12 & 1023) + 1, ways = (b >> 22) + 1;
      if (of_data && is_first) return line * parts * ways * (c + 1);
    }
  }
#endif
  return 0;
}

/// Whether the first cache can be asked for much at once. Measured on two that have 32 and 48 KiB
/// (Zen 4, Zen 5), of which the smaller has room for 24 requests.
inline bool first_cache_takes_much() {
  static const bool takes_much = first_cache_bytes() > 32768;
  return takes_much;
}

constexpr simd all_simd[] = {simd::avx512, simd::avx2, simd::neon, simd::portable};

/// Refuses a set that is unknown, not compiled or not run here, with a list of those that are.
inline simd checked_simd(std::string_view wanted) {
  std::string list;
  for (const simd set : all_simd) {
    if (!is_available(set)) continue;
    if (to_string(set) == wanted) return set;
    list += (list.empty() ? "" : ", ") + std::string(to_string(set));
  }
  require(false, "instruction set is \"", wanted,
          "\", this build on this machine has the choice of: ", list);
  return simd::portable;
}

inline simd best_simd() {
  const char* const wanted = std::getenv("ATTN_INSTRUCTION_SET");
  if (wanted != nullptr && *wanted != '\0') return checked_simd(wanted);
  for (const simd set : all_simd) {
    if (is_available(set)) return set;
  }
  return simd::portable;
}

inline std::atomic<simd>& chosen_simd() {
  static std::atomic<simd> chosen = best_simd();
  return chosen;
}

}  // namespace detail

/// The instruction set in use. Throws std::invalid_argument where ATTN_INSTRUCTION_SET in the
/// environment is none of those that this build has code for and this machine runs.
inline simd instruction_set() { return detail::chosen_simd().load(std::memory_order_relaxed); }

/// Uses another instruction set from now on; for tests and comparisons. Throws
/// std::invalid_argument where this build has no code for it or this machine doesn't run it.
inline void use_instruction_set(simd set) {
  detail::chosen_simd() = detail::checked_simd(to_string(set));
}

}  // namespace attn::inline ATTN_ABI
