#include "json_reader.hpp"

#include <charconv>
#include <system_error>

#include "utf8.hpp"

namespace minilm {

void json_reader::skip_space() {
  at_ = std::min(text_.find_first_not_of(" \t\n\r", at_), text_.size());
}

bool json_reader::accept(char wanted) {
  skip_space();
  if (at_ == text_.size() || text_[at_] != wanted) return false;
  ++at_;
  return true;
}

void json_reader::expect(char wanted) {
  if (!accept(wanted)) fail_expecting(quoted({&wanted, 1}));
}

void json_reader::finish() {
  at_ = std::min(text_.find_first_not_of(' ', at_), text_.size());
  if (at_ != text_.size()) fail_expecting("nothing but spaces");
}

std::uint64_t json_reader::unsigned_integer() {
  skip_space();
  std::uint64_t value = 0;
  const char* const first = text_.data() + at_;
  const auto [last, error] = std::from_chars(first, text_.data() + text_.size(), value);
  if (error == std::errc::result_out_of_range) fail("byte ", at_, ": the number is too large");
  if (error != std::errc() || (*first == '0' && last - first > 1)) {
    fail_expecting("an unsigned integer");
  }
  at_ += static_cast<std::size_t>(last - first);
  return value;
}

std::string json_reader::string() {
  if (!accept('"')) fail_expecting("a string");
  std::string result;
  while (at_ < text_.size()) {
    const char32_t code_point = next_code_point(text_, at_);
    if (code_point == '"') return result;
    if (code_point < 0x20) fail("byte ", at_ - 1, ": a control character in a string");
    append_utf8(result, code_point == '\\' ? escape() : code_point);
  }
  fail_expecting("the end of a string");
}

char32_t json_reader::escape() {
  constexpr std::string_view letters = "\"\\/bfnrt", meanings = "\"\\/\b\f\n\r\t";
  if (at_ == text_.size()) fail_expecting("an escape");
  const char letter = text_[at_];
  if (const std::size_t found = letters.find(letter); found != letters.npos) {
    ++at_;
    return static_cast<unsigned char>(meanings[found]);
  }
  if (letter != 'u') fail_expecting("an escape");
  ++at_;
  const char32_t first = four_hex_digits();
  if (first < 0xD800 || first > 0xDFFF) return first;
  // Beyond U+FFFF an escape is a pair: a high surrogate, then a low one.
  char32_t second = 0;
  if (first < 0xDC00 && text_.substr(at_, 2) == "\\u") {
    at_ += 2;
    second = four_hex_digits();
  }
  if (second < 0xDC00 || second > 0xDFFF) fail("byte ", at_, ": a surrogate without its partner");
  return 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
}

char32_t json_reader::four_hex_digits() {
  std::uint16_t value = 0;
  const char* const first = text_.data() + at_;
  if (text_.size() - at_ < 4 || std::from_chars(first, first + 4, value, 16).ptr != first + 4) {
    fail_expecting("four hexadecimal digits");
  }
  at_ += 4;
  return value;
}

std::string json_reader::quoted(std::string_view name) {
  constexpr std::size_t longest = 80;
  std::string result = "\"";
  for (const char c : name.substr(0, longest)) {
    const bool control = static_cast<unsigned char>(c) < 0x20 || c == 0x7F;
    result.push_back(control ? '?' : c);
  }
  return result + (name.size() > longest ? "...\"" : "\"");
}

void json_reader::fail_expecting(std::string_view wanted) const {
  fail("byte ", at_, ": expected ", wanted, ", found ",
       at_ < text_.size() ? quoted(text_.substr(at_, 1)) : "the end");
}

}  // namespace minilm
