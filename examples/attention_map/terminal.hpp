// The picture as text: a heat map of coloured cells or shades, and in numbers what each row sums to
// and where it is strongest.
#pragma once

#include <string>

#include "picture.hpp"

namespace attention_map {

enum class colours { none, palette, all };  // shades; 256 colours; 24 bits

struct screen {
  int width = 80;  // no line is wider
  colours depth = colours::none;
};

// What the standard output is. The environment has a say: COLUMNS, NO_COLOR, TERM, COLORTERM.
screen standard_output();
// How many colours it could show, were it a terminal.
colours depth_of_environment();

std::string draw(const picture& shown, const screen& on);

}  // namespace attention_map
