// What each code point becomes before words are split. The table behind it is unicode_table.txt,
// which CMake turns into unicode_table.cpp: the tokenizer needs neither a Unicode library nor a
// file.
#pragma once

#include <span>
#include <string_view>

namespace minilm {

enum class kind : char {
  dropped = 'D',   // the characters on both sides join
  space = 'S',     // ends a word
  isolated = 'I',  // a word of its own
  letter = 'M',    // part of a word
};

// The code points from first to last. What they become is in mapped; where that is empty, they
// stay.
struct unicode_range {
  char32_t first, last;
  minilm::kind kind;
  std::u32string_view mapped;
};

// In ascending order. A code point in no range is a letter that stays, but for Hangul syllables,
// which decompose by rule.
std::span<const unicode_range> unicode_table();

}  // namespace minilm
