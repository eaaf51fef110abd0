#include "terminal.hpp"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "colour.hpp"
#include "text.hpp"

namespace attention_map {
namespace {

using Eigen::Index;

constexpr int narrowest = 40, widest_cell = 6, widest_label = 13;
constexpr std::string_view sum_heading = "sum   strongest";
constexpr int share_width = 4;  // "100%"

template <class... Arguments>
std::string format(const char* pattern, Arguments... arguments) {
  char text[64];
  std::snprintf(text, sizeof text, pattern, arguments...);
  return text;
}

std::string spaces(int count) { return padded("", count); }

std::string percent(float weight) { return std::to_string(std::lround(100 * weight)) + "%"; }

std::string repeated(std::string_view text, int count) {
  std::string result;
  for (int i = 0; i < count; ++i) result += text;
  return result;
}

std::string_view environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

// Shades start at these shares of the largest weight.
constexpr struct {
  float from;
  std::string_view glyph;
} shades[] = {{0, " "}, {0.06f, "░"}, {0.25f, "▒"}, {0.5f, "▓"}, {0.75f, "█"}};

std::string_view shade(float value) {
  std::string_view result;
  for (const auto& [from, glyph] : shades) {
    if (value >= from) result = glyph;
  }
  return result;
}

// The escape sequence for text on a cell's colour.
std::string on_heat(const std::string& text, float value, colours depth) {
  const colour ink = ink_on_heat(value), paper = heat(value);
  if (depth == colours::all) {
    return format("\033[38;2;%d;%d;%d;48;2;%d;%d;%dm", ink.red, ink.green, ink.blue, paper.red,
                  paper.green, paper.blue) +
           text;
  }
  // The palette's blues, picked by eye: the nearest ones to our colours turn green and violet.
  constexpr int blues[] = {231, 189, 153, 110, 74, 68, 26, 25, 18, 17};
  const int ink_index = ink.red == 255 ? 231 : 16;
  return format("\033[38;5;%d;48;5;%dm", ink_index,
                blues[std::lround(std::clamp(value, 0.0f, 1.0f) * 9)]) +
         text;
}

class heat_map {
 public:
  heat_map(const picture& shown, const screen& on)
      : shown_(shown), on_(on), width_(std::max(on.width, narrowest)) {
    const int longest = std::min(widest_label, width_ / 5);
    for (const std::string& label : labels(shown.tokens)) {
      labels_.push_back(shortened(label, longest));
      label_width_ = std::max(label_width_, display_width(labels_.back()));
    }
    numbers_width_ =
        std::max(static_cast<int>(sum_heading.size()), 6 + label_width_ + 1 + share_width);
    largest_ = std::max(shown.weights.maxCoeff(), 1e-30f);
  }

  // In bands of columns, as few as the width allows.
  std::string draw() const {
    const int room = width_ - left() - gap - numbers_width_;
    const int count = static_cast<int>(labels_.size());
    const int bands = (2 * count + room - 1) / room;
    const int columns = (count + bands - 1) / bands;
    const int cell = std::min(widest_cell, room / columns);
    std::string result;
    for (int first = 0; first < count; first += columns) {
      result += draw_band(first, std::min(columns, count - first), cell) + "\n";
    }
    return result + legend();
  }

 private:
  static constexpr int gap = 2;  // between the map and the numbers

  const std::string& label(Index i) const { return labels_[static_cast<std::size_t>(i)]; }
  int left() const { return label_width_ + 1; }

  // The columns' labels, of any length over narrow cells: each hangs as low as it can without
  // crossing the lines that lead down from the labels to its right.
  std::string draw_headings(int first, int count, int cell) const {
    struct heading {
      std::string_view text;
      int at, level;
    };
    std::vector<heading> headings;
    const bool last = first + count == static_cast<int>(labels_.size());
    if (last) headings.push_back({sum_heading, left() + count * cell + gap, 0});
    int levels = 1;
    for (int j = count - 1; j >= 0; --j) {
      const std::string& text = label(first + j);
      const int at = left() + j * cell + (cell - 1) / 2, end = at + display_width(text);
      int level = 0;
      for (const heading& right : headings) {
        if (right.at <= end) level = std::max(level, right.level + 1);
      }
      headings.push_back({text, at, level});
      levels = std::max(levels, level + 1);
    }
    std::ranges::reverse(headings);

    std::string result;
    for (int level = levels - 1; level >= 0; --level) {
      std::string line;
      for (const heading& each : headings) {
        if (each.level < level) continue;
        line = padded(line, each.at);
        line += each.level == level ? each.text : "│";
      }
      result += line + "\n";
    }
    return result;
  }

  std::string draw_band(int first, int count, int cell) const {
    std::string result = draw_headings(first, count, cell);
    for (Index i = 0; i < shown_.weights.rows(); ++i) {
      result += padded(label(i), left());
      for (int j = first; j < first + count; ++j) result += draw_cell(shown_.weights(i, j), cell);
      if (on_.depth != colours::none) result += "\033[0m";
      if (first + count == shown_.weights.cols()) result += spaces(gap) + draw_numbers(i);
      result += "\n";
    }
    return result;
  }

  std::string draw_cell(float weight, int cell) const {
    const float value = weight / largest_;
    if (on_.depth == colours::none) return repeated(shade(value), cell);
    const long number = std::lround(100 * weight);
    std::string text = cell >= share_width && number > 0 ? std::to_string(number) + " " : "";
    text.insert(0, static_cast<std::size_t>(cell) - text.size(), ' ');
    return on_heat(text, value, on_.depth);
  }

  std::string draw_numbers(Index row) const {
    Index strongest = 0;
    const float most = shown_.weights.row(row).maxCoeff(&strongest);
    const double sum = shown_.weights.row(row).cast<double>().sum();
    return format("%.3f ", sum) + padded(label(strongest), label_width_ + 1) + percent(most);
  }

  std::string legend() const {
    std::string result;
    if (on_.depth == colours::none) {
      result = "from";
      for (const auto& [from, glyph] : shades) {
        if (from > 0) result.append(" ").append(glyph).append(" ").append(percent(from * largest_));
      }
      return result + ", up to " + percent(largest_) + "\n";
    }
    constexpr int steps = 20;
    result += "0% ";
    for (int i = 0; i < steps; ++i) {
      result += on_heat(" ", static_cast<float>(i) / (steps - 1), on_.depth);
    }
    return result + "\033[0m " + percent(largest_) + "\n";
  }

  const picture& shown_;
  screen on_;
  int width_;
  std::vector<std::string> labels_;
  int label_width_ = 1;
  int numbers_width_ = 0;
  float largest_ = 1;
};

}  // namespace

colours depth_of_environment() {
  const std::string_view depth = environment("COLORTERM");
  return depth == "truecolor" || depth == "24bit" ? colours::all : colours::palette;
}

screen standard_output() {
  screen result;
  const bool terminal = isatty(STDOUT_FILENO) == 1;
  const std::string_view columns = environment("COLUMNS");
  int given = 0;
  std::from_chars(columns.data(), columns.data() + columns.size(), given);
  winsize size{};
  if (given > 0) {
    result.width = given;
  } else if (terminal && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
    result.width = size.ws_col;
  }
  if (terminal && environment("NO_COLOR").empty() && environment("TERM") != "dumb") {
    result.depth = depth_of_environment();
  }
  return result;
}

std::string draw(const picture& shown, const screen& on) {
  require_numbers(shown);
  return heat_map(shown, on).draw();
}

}  // namespace attention_map
