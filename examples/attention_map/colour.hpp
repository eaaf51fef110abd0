// One colour scale for terminal and SVG: from paper to deep blue, getting darker all the way.
#pragma once

#include <algorithm>
#include <cmath>

namespace attention_map {

struct colour {
  int red, green, blue;
};

// value: 0 to 1.
inline colour heat(float value) {
  constexpr colour stops[] = {
      {246, 248, 252}, {190, 215, 240}, {92, 158, 214}, {28, 95, 168}, {10, 38, 90}};
  constexpr int last = 4;
  const float place = std::clamp(value, 0.0f, 1.0f) * last;
  const int below = std::min(static_cast<int>(place), last - 1);
  const auto between = [&](int colour::* part) {
    return static_cast<int>(std::lround(std::lerp(static_cast<float>(stops[below].*part),
                                                  static_cast<float>(stops[below + 1].*part),
                                                  place - static_cast<float>(below))));
  };
  return {between(&colour::red), between(&colour::green), between(&colour::blue)};
}

// For text on it.
inline colour ink_on_heat(float value) {
  return value < 0.62f ? colour{20, 30, 50} : colour{255, 255, 255};
}

}  // namespace attention_map
