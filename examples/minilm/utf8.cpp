#include "utf8.hpp"

#include <cstdint>

#include "error.hpp"

namespace minilm {

char32_t next_code_point(std::string_view text, std::size_t& at) {
  const auto byte = [&](std::size_t i) -> std::uint32_t {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0;  // 0 continues nothing
  };
  const std::uint32_t lead = byte(at);
  if (lead < 0x80) {
    ++at;
    return lead;
  }
  const std::size_t length = lead < 0xC0   ? 0
                             : lead < 0xE0 ? 2
                             : lead < 0xF0 ? 3
                             : lead < 0xF8 ? 4
                                           : 0;
  // The smallest code point that needs this many bytes; a smaller one would be an overlong form.
  constexpr std::uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
  std::uint32_t code_point = length == 0 ? 0 : lead & (0xFFu >> (length + 1));
  bool valid = length != 0;
  for (std::size_t i = 1; i < length; ++i) {
    valid = valid && (byte(at + i) & 0xC0) == 0x80;
    code_point = code_point << 6 | (byte(at + i) & 0x3F);
  }
  valid = valid && code_point >= smallest[length] && code_point <= 0x10FFFF &&
          (code_point < 0xD800 || code_point > 0xDFFF);
  if (!valid) fail("invalid UTF-8 at byte ", at);
  at += length;
  return code_point;
}

void append_utf8(std::string& text, char32_t code_point) {
  const auto put = [&](char32_t byte) { text.push_back(static_cast<char>(byte)); };
  const auto put_continuation = [&](int shift) { put(0x80 | (code_point >> shift & 0x3F)); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | code_point >> 6);
    put_continuation(0);
  } else if (code_point < 0x10000) {
    put(0xE0 | code_point >> 12);
    put_continuation(6);
    put_continuation(0);
  } else {
    put(0xF0 | code_point >> 18);
    put_continuation(12);
    put_continuation(6);
    put_continuation(0);
  }
}

}  // namespace minilm
