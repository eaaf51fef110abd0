// Text for people: words, and how wide they are on a terminal. All text is UTF-8; what is not is
// refused with a std::runtime_error.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace attention_map {

// The lower-cased words and punctuation marks of a text, as a WordPiece tokenizer sees them before
// it cuts them into pieces.
std::vector<std::string> words(std::string_view text);

// On one line, with control characters made visible: safe for terminals and XML.
std::string printable(std::string_view text);

// Columns on a terminal.
int display_width(std::string_view text);

// At most `width` columns of it, the last of them … where something had to go.
std::string shortened(std::string_view text, int width);

// With spaces behind it, to at least `width` columns.
std::string padded(std::string_view text, int width);

// Labels that tell the tokens apart: "to" and "to" become "to₁" and "to₂".
std::vector<std::string> labels(const std::vector<std::string>& tokens);

}  // namespace attention_map
