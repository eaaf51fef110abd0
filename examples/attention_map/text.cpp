#include "text.hpp"

#include <algorithm>
#include <map>
#include <span>

#include "unicode_table.hpp"
#include "utf8.hpp"

namespace attention_map {
namespace {

using minilm::kind;

// The table's entry for a code point; one that stands for "a letter that stays" if it has none.
minilm::unicode_range look_up(char32_t code_point) {
  const auto table = minilm::unicode_table();
  const auto range = std::ranges::lower_bound(table, code_point, {}, &minilm::unicode_range::last);
  if (range != table.end() && range->first <= code_point) return *range;
  return {code_point, code_point, kind::letter, {}};
}

// What terminals give two columns: East Asian scripts, full-width forms, emoji.
bool is_wide(char32_t code_point) {
  static constexpr struct {
    char32_t first, last;
  } ranges[] = {{0x1100, 0x115F},   {0x2E80, 0x303E},  {0x3041, 0x4DBF},   {0x4E00, 0xA4CF},
                {0xA960, 0xA97C},   {0xAC00, 0xD7A3},  {0xF900, 0xFAFF},   {0xFE30, 0xFE6F},
                {0xFF01, 0xFF60},   {0xFFE0, 0xFFE6},  {0x1F300, 0x1F64F}, {0x1F680, 0x1F6FF},
                {0x1F900, 0x1F9FF}, {0x20000, 0x3FFFD}};
  return std::ranges::any_of(
      ranges, [&](auto range) { return range.first <= code_point && code_point <= range.last; });
}

int columns(char32_t code_point) {
  const bool hangul_inside_syllable = code_point >= 0x1160 && code_point <= 0x11FF;
  if (hangul_inside_syllable || look_up(code_point).kind == kind::dropped) return 0;
  return is_wide(code_point) ? 2 : 1;
}

std::string subscript(int number) {
  std::string result;
  for (const char digit : std::to_string(number)) {
    minilm::append_utf8(result, U'₀' + static_cast<char32_t>(digit - '0'));
  }
  return result;
}

}  // namespace

std::vector<std::string> words(std::string_view text) {
  std::vector<std::string> result;
  bool inside = false;  // whether the last word is still growing
  for (std::size_t at = 0; at < text.size();) {
    const char32_t code_point = minilm::next_code_point(text, at);
    const auto entry = look_up(code_point);
    if (entry.kind == kind::dropped) continue;
    if (entry.kind != kind::letter) inside = false;
    if (entry.kind == kind::space) continue;
    if (!inside) result.emplace_back();
    inside = entry.kind == kind::letter;
    if (entry.mapped.empty()) minilm::append_utf8(result.back(), code_point);
    for (const char32_t mapped : entry.mapped) minilm::append_utf8(result.back(), mapped);
  }
  return result;
}

std::string printable(std::string_view text) {
  std::string result;
  for (std::size_t at = 0; at < text.size();) {
    char32_t code_point = minilm::next_code_point(text, at);
    const bool white = code_point == '\t' || code_point == '\n' || code_point == '\r';
    const bool control = code_point < 0x20 || (code_point >= 0x7F && code_point < 0xA0);
    const bool no_character = (code_point & 0xFFFE) == 0xFFFE;  // not allowed in XML
    if (control || no_character) code_point = white ? U' ' : U'\uFFFD';
    minilm::append_utf8(result, code_point);
  }
  return result;
}

int display_width(std::string_view text) {
  int width = 0;
  for (std::size_t at = 0; at < text.size();) width += columns(minilm::next_code_point(text, at));
  return width;
}

std::string shortened(std::string_view text, int width) {
  if (display_width(text) <= width) return std::string(text);
  int used = 1;  // the … itself
  std::size_t end = 0;
  for (std::size_t at = 0; at < text.size(); end = at) {
    used += columns(minilm::next_code_point(text, at));
    if (used > width) break;
  }
  return std::string(text.substr(0, end)) + "…";
}

std::string padded(std::string_view text, int width) {
  const int missing = std::max(0, width - display_width(text));
  return std::string(text).append(static_cast<std::size_t>(missing), ' ');
}

std::vector<std::string> labels(const std::vector<std::string>& tokens) {
  std::map<std::string, int> seen;
  std::vector<std::string> result;
  for (const std::string& token : tokens) {
    std::string label = printable(token);
    const int number = ++seen[token];
    if (std::ranges::count(tokens, token) > 1) label += subscript(number);
    result.push_back(std::move(label));
  }
  return result;
}

}  // namespace attention_map
