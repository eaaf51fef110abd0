// Dropout: which weights a training step leaves out, from numbers that depend on nothing but the
// seed and the place of a weight, so that forward and backward agree without keeping a mask.
#pragma once

#include <array>
#include <attn/config.hpp>
#include <attn/position.hpp>
#include <cstdint>

namespace attn::inline ATTN_ABI {

/// Each weight is 0 with this probability, and else divided by 1 - probability. A probability of 0
/// leaves all as they are. Take another seed for every step and layer.
struct dropout {
  double probability = 0;  ///< that a weight is left out, in [0, 1)
  std::uint64_t seed = 0;  ///< another for each step of training
};

/// The rounds of Philox 4x32 and the numbers that they multiply by and raise the key by.
struct philox {
  /// @{
  /// As published.
  static constexpr int rounds = 10;
  static constexpr std::uint32_t multiplier[2] = {0xD2511F53, 0xCD9E8D57};
  static constexpr std::uint32_t weyl[2] = {0x9E3779B9, 0xBB67AE85};
  /// @}

  /// Four random words of a counter and a key: Philox 4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel
  /// Random Numbers: As Easy as 1, 2, 3, 2011).
  static constexpr std::array<std::uint32_t, 4> words(std::array<std::uint32_t, 4> c,
                                                      std::array<std::uint32_t, 2> key) {
    for (int round = 0; round < rounds; ++round) {
      const std::uint64_t a = std::uint64_t{multiplier[0]} * c[0];
      const std::uint64_t b = std::uint64_t{multiplier[1]} * c[2];
      c = {static_cast<std::uint32_t>(b >> 32) ^ c[1] ^ key[0], static_cast<std::uint32_t>(b),
           static_cast<std::uint32_t>(a >> 32) ^ c[3] ^ key[1], static_cast<std::uint32_t>(a)};
      key[0] += weyl[0];
      key[1] += weyl[1];
    }
    return c;
  }
};

namespace detail {

inline void check_dropout(const dropout& d) {
  require(d.probability >= 0 && d.probability < 1, "options.dropout has probability ",
          d.probability, ", it should be at least 0 and below 1");
}

/// Dropout as the engine draws it: a weight is kept where its word is not below the threshold.
struct dropping {
  std::uint32_t threshold = 0;  // 0: nothing is dropped
  std::uint32_t key[2] = {0, 0};
  double factor = 1;  // of what is kept: 1 / (1 - probability)

  dropping() = default;
  explicit dropping(const dropout& d)
      : threshold(static_cast<std::uint32_t>(d.probability * 0x1p32)),
        key{static_cast<std::uint32_t>(d.seed), static_cast<std::uint32_t>(d.seed >> 32)},
        factor(threshold == 0 ? 1 : 1 / (1 - d.probability)) {}

  [[nodiscard]] constexpr explicit operator bool() const { return threshold != 0; }

  /// Words are drawn for four keys together, by their row, head and sequence.
  [[nodiscard]] constexpr bool keeps(const position& at) const {
    const auto unsigned_of = [](std::int32_t n) { return static_cast<std::uint32_t>(n); };
    const auto four = philox::words(
        {unsigned_of(at.row), unsigned_of(at.key) / 4, unsigned_of(at.head), unsigned_of(at.batch)},
        {key[0], key[1]});
    return four[unsigned_of(at.key) % 4] >= threshold;
  }
};

}  // namespace detail

/// What dropout multiplies the weight at a position by: 0 or 1 / (1 - probability).
inline double dropout_factor(const dropout& d, const position& at) {
  detail::check_dropout(d);
  const detail::dropping draws(d);
  return !draws || draws.keeps(at) ? draws.factor : 0;
}

}  // namespace attn::inline ATTN_ABI
