// attn::math against the standard library in the next wider type: a stratified sample of all
// numbers, and every float in a test that is asked for by name: kernel.math "[every]".
#include <attn/math.hpp>
#include <bit>
#include <cmath>
#include <cstdint>

#include "support/catch.hpp"
#include "support/generate.hpp"

namespace attn_test {
namespace {

template <class T>
using wider = std::conditional_t<std::is_same_v<T, float>, double, long double>;

// How many units in the last place `found` is from `exact`, and infinity where one is not finite
// and the other is not the same. Results below the normal numbers count in the smallest normal
// unit.
template <class T>
double ulps(T found, wider<T> exact) {
  const T rounded = static_cast<T>(exact);
  if (std::isnan(found) || std::isnan(rounded)) {
    return std::isnan(found) == std::isnan(rounded) ? 0 : HUGE_VAL;
  }
  if (std::isinf(found) || std::isinf(rounded)) return found == rounded ? 0 : HUGE_VAL;
  const T size = std::max(std::abs(rounded), std::numeric_limits<T>::min());
  const wider<T> unit =
      std::ldexp(wider<T>(1), std::ilogb(size) - std::numeric_limits<T>::digits + 1);
  return static_cast<double>(std::abs(static_cast<wider<T>>(found) - exact) / unit);
}

template <class T>
struct function {
  const char* name;
  T (*tested)(T);
  wider<T> (*exact)(wider<T>);
  double allowed;                                 // as its documentation says
  T least = -std::numeric_limits<T>::infinity();  // of its arguments
};

template <class T>
std::vector<function<T>> functions() {
  using W = wider<T>;
  return {{"exp", attn::math::exp<T>, [](W x) { return std::exp(x); }, 2},
          {"exp2", attn::math::exp2<T>, [](W x) { return std::exp2(x); }, 2},
          {"log", attn::math::log<T>, [](W x) { return std::log(x); }, 2},
          {"tanh", attn::math::tanh<T>, [](W x) { return std::tanh(x); }, 4},
          {"sigmoid", attn::math::sigmoid<T>, [](W x) { return 1 / (1 + std::exp(-x)); }, 4,
           std::is_same_v<T, float> ? T(-87) : T(-708)}};
}

template <class T>
void check_at(const function<T>& f, T x) {
  if (x < f.least) return;
  const double error = ulps(f.tested(x), f.exact(static_cast<wider<T>>(x)));
  if (error > f.allowed) {
    CAPTURE(f.name, x, f.tested(x), error);
    REQUIRE(error <= f.allowed);
  }
}

// Every exponent and sign, with mantissas drawn at random, and the numbers where things change.
template <class T, class Bits>
void check_sample() {
  generator g(231);
  constexpr int mantissa = std::numeric_limits<T>::digits - 1;
  constexpr Bits exponents = Bits{1} << (sizeof(T) * 8 - 1 - mantissa);
  const int draws = sizeof(T) == 4 ? 2000 : 300;
  for (const auto& f : functions<T>()) {
    for (Bits upper = 0; upper < 2 * exponents; ++upper) {
      for (int i = 0; i < draws; ++i) {
        const Bits lower = static_cast<Bits>(g.next()) & ((Bits{1} << mantissa) - 1);
        check_at(f, std::bit_cast<T>(static_cast<Bits>((upper << mantissa) | lower)));
      }
    }
    for (const double x :
         {0.0, -0.0, 1.0, -1.0, 0.5, 10.0, 20.0, 88.72, -87.33, -103.9, 709.7, -745.1}) {
      check_at(f, static_cast<T>(x));
    }
    check_at(f, std::numeric_limits<T>::infinity());
    check_at(f, -std::numeric_limits<T>::infinity());
  }
}

TEST_CASE("elementary functions are as exact as they say") {
  check_sample<float, std::uint32_t>();
  check_sample<double, std::uint64_t>();
}

TEST_CASE("every float", "[.][every]") {
  for (const auto& f : functions<float>()) {
    std::uint32_t bits = 0;
    do {
      check_at(f, std::bit_cast<float>(bits));
    } while (++bits != 0);
  }
}

}  // namespace
}  // namespace attn_test
