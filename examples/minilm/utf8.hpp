// UTF-8, strictly: reading one code point at a time, and writing one.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace minilm {

// The code point that starts at byte `at`, which moves past it. Throws, naming the byte, on
// anything that is not UTF-8: stray or missing continuation bytes, overlong forms, surrogates,
// beyond U+10FFFF.
char32_t next_code_point(std::string_view text, std::size_t& at);

void append_utf8(std::string& text, char32_t code_point);

}  // namespace minilm
