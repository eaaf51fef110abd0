// What the tests of rotary embedding share: heads to turn, ways to tell their positions, and the
// formula in long double, pair by pair, that turned heads are compared with.
#pragma once

#include <array>
#include <attn/rotary.hpp>
#include <cmath>
#include <cstdint>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/generate.hpp"

namespace attn_test {

using attn::heads_array, attn::heads_order, attn::heads_shape, attn::heads_view;
using attn::rotary_embedding, attn::rotary_layout, attn::rotary_positions;

inline constexpr std::array both_layouts{rotary_layout::half_split, rotary_layout::interleaved};
inline constexpr index farthest =  // 2^31, or nearly as far as a 32-bit index counts
    static_cast<index>(
        std::min<std::int64_t>(std::int64_t{1} << 31, std::numeric_limits<index>::max() - 1));

template <class T>
void fill(generator& g, const heads_view<T>& x, double size = 2) {
  for (index b = 0; b < x.batch(); ++b) {
    for (index h = 0; h < x.heads(); ++h) {
      x.head(b, h) = any_matrix<matrix<T>>(g, x.length(), x.width(), size);
    }
  }
}
template <class T>
heads_array<T> any_heads(generator& g, const heads_shape& shape,
                         heads_order order = heads_order::bhld) {
  heads_array<T> x(shape, order);
  fill(g, x.view());
  return x;
}

template <class A, class B>
bool same(const A& a, const B& b) {
  bool equal = a.shape() == b.shape();
  for (index n = 0; equal && n < a.shape().batch * a.shape().heads; ++n) {
    const index head = n % a.shape().heads;
    equal = a.head(n / a.shape().heads, head) == b.head(n / a.shape().heads, head);
  }
  return equal;
}

// What a call should do: the cosine and sine for pair c of token i of sequence b, and how far its
// angle may be off.
struct rotation {
  index width = 0;
  rotary_layout layout = rotary_layout::half_split;
  std::function<std::array<long double, 2>(index b, index i, index c)> cos_sin;
  std::function<long double(index b, index i)> angle_error = [](index, index) { return 0; };
};

// Cosine and sine are each rounded, so are the products and their sum: 3/2 eps of |a| + |b| in the
// type that is computed in. The result is rounded to 16 bits once: half an eps, 2^-10 for half
// (Eigen has 2^-13) and 2^-7 for bfloat16.
template <class T>
long double rounding() {
  const long double once = std::is_same_v<T, Eigen::half>       ? 0x1p-11L
                           : std::is_same_v<T, Eigen::bfloat16> ? 0x1p-8L
                                                                : 0;
  return 2 * tolerance::eps<accumulator<T>, long double>() + once;
}

// Empty if `after` is what `before` is turned to, by the definition, pair by pair.
template <class T>
std::string difference(const heads_view<const T>& before, const heads_view<const T>& after,
                       const rotation& r) {
  const auto wide_of = [](T x) { return static_cast<long double>(static_cast<double>(x)); };
  const auto [batch, heads, length, columns] = before.shape();
  for (index n = 0; n < batch * heads * length; ++n) {
    const index b = n / (heads * length), h = n / length % heads, i = n % length;
    std::vector<long double> expected, allowed(static_cast<std::size_t>(columns), 0);
    for (index c = 0; c < columns; ++c) expected.push_back(wide_of(before(b, h, i, c)));
    for (index c = 0; c < r.width / 2; ++c) {
      const bool halves = r.layout == rotary_layout::half_split;
      const auto first = static_cast<std::size_t>(halves ? c : 2 * c);
      const auto second = static_cast<std::size_t>(halves ? c + r.width / 2 : 2 * c + 1);
      const auto [cos, sin] = r.cos_sin(b, i, c);
      const long double x = expected[first], y = expected[second];
      expected[first] = x * cos - y * sin;
      expected[second] = x * sin + y * cos;
      allowed[first] = allowed[second] =
          (rounding<T>() + r.angle_error(b, i)) * (std::abs(x) + std::abs(y));
    }
    for (index c = 0; c < columns; ++c) {
      const auto found = wide_of(after(b, h, i, c));
      const long double e = expected[static_cast<std::size_t>(c)];
      if (std::abs(found - e) <= allowed[static_cast<std::size_t>(c)]) continue;
      if (c >= r.width && std::isnan(found) && std::isnan(e)) continue;
      std::ostringstream report;
      report << "(" << b << ", " << h << ", " << i << ", " << c << ") is " << found << ", expected "
             << e;
      return report.str();
    }
  }
  return {};
}

// One of each way to tell positions, with what it means.
struct placement {
  std::vector<std::int32_t> narrow;
  std::vector<std::int64_t> wide;
  std::function<rotary_positions(const placement&)> given;
  std::function<index(index b, index i)> at;
};
inline std::vector<placement> every_placement(generator& g, const heads_shape& n, index least,
                                              index most) {
  const auto size = [](index count) { return static_cast<std::size_t>(count); };
  std::vector<std::int32_t> a_token(size(n.length)), a_sequence(size(n.batch));
  std::vector<std::int64_t> each(size(n.batch * n.length));
  for (auto& p : a_token) p = static_cast<std::int32_t>(g.between(least, most));
  for (auto& p : a_sequence) p = static_cast<std::int32_t>(g.between(least, most - n.length));
  for (auto& p : each) p = g.between(least, std::min(least + 3, most));  // some twice in a row
  const index offset = g.between(least, most - n.length);
  return {
      {{},
       {},
       [](const placement&) { return rotary_positions(); },
       [](index, index i) { return i; }},
      {{},
       {},
       [=](const placement&) { return rotary_positions{.offset = offset}; },
       [=](index, index i) { return offset + i; }},
      {a_sequence,
       {},
       [](const placement& p) { return rotary_positions{.offsets = p.narrow}; },
       [=](index b, index i) { return a_sequence[size(b)] + i; }},
      {a_token,
       {},
       [](const placement& p) { return rotary_positions{.ids = p.narrow}; },
       [=](index, index i) { return a_token[size(i)]; }},
      {{},
       each,
       [](const placement& p) { return rotary_positions{.ids = p.wide}; },
       [=](index b, index i) { return each[size(b * n.length + i)]; }},
  };
}

// The angles of a base of at least 1: base^(-2c/w) is rounded as an exponent, as a power, and once
// more as it is multiplied by p, which together is 2^-52 of p at most.
inline rotation by_base(double base, index width, rotary_layout layout, const placement& placed) {
  return {.width = width,
          .layout = layout,
          .cos_sin =
              [=, at = placed.at](index b, index i, index c) {
                const long double share = -2 * static_cast<long double>(c) / width;
                const long double angle =
                    at(b, i) * std::pow(static_cast<long double>(base), share);
                return std::array{std::cos(angle), std::sin(angle)};
              },
          .angle_error =
              [at = placed.at](index b, index i) {
                return 0x1p-52L * static_cast<long double>(std::abs(at(b, i)));
              }};
}

}  // namespace attn_test
