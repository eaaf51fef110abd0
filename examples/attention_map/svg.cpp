#include "svg.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <sstream>
#include <string_view>
#include <vector>

#include "colour.hpp"
#include "text.hpp"

namespace attention_map {
namespace {

using Eigen::Index;

std::string escaped(std::string_view text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      default:
        result += c;
    }
  }
  return result;
}

std::string hex(const colour& c) {
  char text[8];
  std::snprintf(text, sizeof text, "#%02x%02x%02x", c.red & 255, c.green & 255, c.blue & 255);
  return text;
}

std::string percent(float weight) {
  const double value = 100.0 * static_cast<double>(weight);
  char text[16];
  std::snprintf(text, sizeof text, value < 9.95 ? "%.1f%%" : "%.0f%%", value);
  return text;
}

class drawing {
 public:
  explicit drawing(const picture& shown)
      : shown_(shown), labels_(labels(shown.tokens)), count_(static_cast<int>(labels_.size())) {
    for (std::string& label : labels_) {
      label = shortened(label, 18);
      longest_ = std::max(longest_, display_width(label));
    }
    largest_ = std::max(shown.weights.maxCoeff(), 1e-30f);
    cell_ = std::clamp(640 / count_, 16, 44);
    font_ = cell_ < 22 ? 11 : 15;
    // Labels slant to the right at 45°, so they need 0.7 of their length upwards and beyond the
    // last.
    const int label = longest_ * font_ * 6 / 10;
    left_ = 24 + std::max(label, 40) + 12;
    top_ = 84 + label * 7 / 10 + 22;
    map_ = cell_ * count_;
    width_ = std::max(left_ + map_ + label * 7 / 10 + 24, 480);
    height_ = top_ + map_ + 72;
  }

  std::string draw() {
    out_ << "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" << width_ << "\" height=\""
         << height_ << "\" viewBox=\"0 0 " << width_ << " " << height_
         << "\" role=\"img\" font-family=\"system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif\">\n"
         << "<title>Who attends to whom in: " << escaped(printable(shown_.text)) << "</title>\n"
         << "<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#ffffff\"/>\n";
    draw_headline();
    draw_labels();
    draw_cells();
    draw_scale();
    out_ << "</svg>\n";
    return out_.str();
  }

 private:
  const std::string& label(Index i) const { return labels_[static_cast<std::size_t>(i)]; }

  void draw_headline() {
    const std::string text = shortened(printable(shown_.text), (width_ - 48) / 10);
    out_ << "<text x=\"24\" y=\"38\" font-size=\"18\" font-weight=\"600\" fill=\"#141e32\">"
         << escaped(text) << "</text>\n"
         << "<text x=\"24\" y=\"62\" font-size=\"14\" fill=\"#5a6478\">Where each row looks, in "
         << escaped(shown_.source) << "</text>\n";
  }

  void draw_labels() {
    out_ << "<g font-size=\"" << font_ << "\" fill=\"#141e32\">\n";
    for (int i = 0; i < count_; ++i) {
      const std::string text = escaped(label(i));
      const int middle = i * cell_ + cell_ / 2;
      out_ << "<text x=\"" << left_ - 10 << "\" y=\"" << top_ + middle
           << "\" text-anchor=\"end\" dy=\"0.35em\">" << text << "</text>\n"
           << "<text transform=\"translate(" << left_ + middle << " " << top_ - 10
           << ") rotate(-45)\">" << text << "</text>\n";
    }
    out_ << "</g>\n";
  }

  void draw_cells() {
    const bool numbers = cell_ >= 34;
    out_ << "<g text-anchor=\"middle\" font-size=\"12\">\n";
    for (Index i = 0; i < count_; ++i) {
      for (Index j = 0; j < count_; ++j) {
        const float weight = shown_.weights(i, j), value = weight / largest_;
        const Index x = left_ + j * cell_, y = top_ + i * cell_;
        out_ << "<g><title>" << escaped(label(i)) << " → " << escaped(label(j)) << ": "
             << percent(weight) << "</title><rect x=\"" << x << "\" y=\"" << y << "\" width=\""
             << cell_ - 2 << "\" height=\"" << cell_ - gap << "\" rx=\"3\" fill=\""
             << hex(heat(value)) << "\"/>";
        const long rounded = std::lround(100 * weight);
        if (numbers && rounded > 0) {
          out_ << "<text x=\"" << x + (cell_ - gap) / 2 << "\" y=\"" << y + (cell_ - gap) / 2
               << "\" dy=\"0.35em\" fill=\"" << hex(ink_on_heat(value)) << "\">" << rounded
               << "</text>";
        }
        out_ << "</g>\n";
      }
    }
    out_ << "</g>\n";
  }

  void draw_scale() {
    constexpr int length = 160;
    const int y = top_ + map_ + 28;
    out_ << "<linearGradient id=\"scale\">";
    for (int i = 0; i <= 4; ++i) {
      out_ << "<stop offset=\"" << 25 * i << "%\" stop-color=\""
           << hex(heat(static_cast<float>(i) / 4)) << "\"/>";
    }
    out_ << "</linearGradient>\n<g font-size=\"13\" fill=\"#5a6478\">\n"
         << "<text x=\"" << left_ - 10 << "\" y=\"" << y + 11
         << "\" text-anchor=\"end\">0%</text>\n<rect x=\"" << left_ << "\" y=\"" << y
         << "\" width=\"" << length << "\" height=\"14\" rx=\"3\" fill=\"url(#scale)\"/>\n"
         << "<text x=\"" << left_ + length + 10 << "\" y=\"" << y + 11 << "\">" << percent(largest_)
         << "; every row sums to 100%</text>\n</g>\n";
  }

  static constexpr int gap = 2;  // between cells

  const picture& shown_;
  std::vector<std::string> labels_;
  int count_;
  int longest_ = 1;
  float largest_ = 1;
  int cell_ = 0, font_ = 0, left_ = 0, top_ = 0, map_ = 0, width_ = 0, height_ = 0;
  std::ostringstream out_;
};

}  // namespace

std::string svg(const picture& shown) {
  require_numbers(shown);
  return drawing(shown).draw();
}

}  // namespace attention_map
