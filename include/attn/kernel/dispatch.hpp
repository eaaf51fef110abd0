// Compiles the engine once for each instruction set, in a namespace of its own, and calls the one
// in use. A region with a target is built for that target whatever the flags of the build.
#pragma once

#include <algorithm>
#include <attn/kernel/instruction_set.hpp>
#include <attn/kernel/problem.hpp>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <type_traits>
#include <utility>

#if ATTN_X86 && !ATTN_BUILT_FOR_AVX512
#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#endif
#endif
#if ATTN_X86
namespace attn::inline ATTN_ABI::kernel {
namespace avx512 {
#include <attn/kernel/simd/avx512.inl>
// The engine on these vectors.
#include <attn/kernel/engine.inl>  // NOLINT(readability-duplicate-include): once a set
}  // namespace avx512
}  // namespace attn::inline ATTN_ABI::kernel
#endif
#if ATTN_X86 && !ATTN_BUILT_FOR_AVX512
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

#if ATTN_X86 && !ATTN_BUILT_FOR_AVX512
#if !ATTN_BUILT_FOR_AVX2
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#endif
namespace attn::inline ATTN_ABI::kernel {
namespace avx2 {
#include <attn/kernel/simd/avx2.inl>
// The engine on these vectors.
#include <attn/kernel/engine.inl>  // NOLINT(readability-duplicate-include): once a set
}  // namespace avx2
}  // namespace attn::inline ATTN_ABI::kernel
#if !ATTN_BUILT_FOR_AVX2
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
#endif

namespace attn::inline ATTN_ABI::kernel {

#if ATTN_NEON
namespace neon {
#include <attn/kernel/simd/neon.inl>
// The engine on these vectors.
#include <attn/kernel/engine.inl>  // NOLINT(readability-duplicate-include): once a set
}  // namespace neon
#elif !ATTN_BUILT_FOR_AVX512 && !ATTN_BUILT_FOR_AVX2
namespace portable {
#include <attn/kernel/simd/portable.inl>
// The engine on these vectors.
#include <attn/kernel/engine.inl>  // NOLINT(readability-duplicate-include): once a set
}  // namespace portable
#endif

/// The engine of an instruction set.
template <class T>
engine_functions<T> engine_on(simd set) {
  switch (set) {
#if ATTN_X86
    case simd::avx512:
      return avx512::functions<T>();
#if !ATTN_BUILT_FOR_AVX512
    case simd::avx2:
      return avx2::functions<T>();
#endif
#endif
    default:
#if ATTN_NEON
      return neon::functions<T>();
#elif !ATTN_BUILT_FOR_AVX512 && !ATTN_BUILT_FOR_AVX2
      return portable::functions<T>();
#else
      detail::refuse("this build has no code for the instruction set in use");
#endif
  }
}

/// The same for gradients.
template <class T>
gradient_functions<T> gradient_engine_on(simd set) {
  switch (set) {
#if ATTN_X86
    case simd::avx512:
      return avx512::all_gradient_functions<T>();
#if !ATTN_BUILT_FOR_AVX512
    case simd::avx2:
      return avx2::all_gradient_functions<T>();
#endif
#endif
    default:
#if ATTN_NEON
      return neon::all_gradient_functions<T>();
#elif !ATTN_BUILT_FOR_AVX512 && !ATTN_BUILT_FOR_AVX2
      return portable::all_gradient_functions<T>();
#else
      detail::refuse("this build has no code for the instruction set in use");
#endif
  }
}

/// Bytes that a block of rows needs at most, on whatever instruction set runs.
template <class T>
constexpr std::size_t most_needed(index depth, index value_depth, index keys) {
#if ATTN_X86
  namespace widest = avx512;
#elif ATTN_NEON
  namespace widest = neon;
#else
  namespace widest = portable;
#endif
  return static_cast<std::size_t>(widest::most_memory<T>(depth, value_depth, keys)) * sizeof(T);
}

/// The rules of a mask and a score change on an instruction set. They refer to both.
template <class T, class M, class F>
score_rules<T> make_rules(simd set, const M& mask, const F& change) {
  score_rules<T> rules;
  rules.mask = &mask;
  rules.change = &change;
  rules.changes = !std::is_same_v<F, no_change>;
  rules.biased = requires { mask.bias(position{}); };
  rules.cover = [](const void* m, const tile& t) { return static_cast<const M*>(m)->cover(t); };
  rules.visible = [](const void* m, const position& at) {
    return static_cast<bool>(static_cast<const M*>(m)->visible(at));
  };
  switch (set) {
#if ATTN_X86
    case simd::avx512:
      avx512::set_functions<T, M, F>(rules);
      break;
#if !ATTN_BUILT_FOR_AVX512
    case simd::avx2:
      avx2::set_functions<T, M, F>(rules);
      break;
#endif
#endif
    default:
#if ATTN_NEON
      neon::set_functions<T, M, F>(rules);
#elif !ATTN_BUILT_FOR_AVX512 && !ATTN_BUILT_FOR_AVX2
      portable::set_functions<T, M, F>(rules);
#endif
      break;
  }
  return rules;
}

/// The same with what gradients need.
template <class T, class M, class F>
gradient_rules<T> make_gradient_rules(simd set, const M& mask, const F& change) {
  gradient_rules<T> rules;
  rules.scores = make_rules<T>(set, mask, change);
  switch (set) {
#if ATTN_X86
    case simd::avx512:
      avx512::set_gradient_functions<T, F>(rules);
      break;
#if !ATTN_BUILT_FOR_AVX512
    case simd::avx2:
      avx2::set_gradient_functions<T, F>(rules);
      break;
#endif
#endif
    default:
#if ATTN_NEON
      neon::set_gradient_functions<T, F>(rules);
#elif !ATTN_BUILT_FOR_AVX512 && !ATTN_BUILT_FOR_AVX2
      portable::set_gradient_functions<T, F>(rules);
#endif
      break;
  }
  return rules;
}

}  // namespace attn::inline ATTN_ABI::kernel
