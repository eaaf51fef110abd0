// The picture as an SVG file: a heat map with labels, the weights as tooltips, and a colour scale.
#pragma once

#include <string>

#include "picture.hpp"

namespace attention_map {

std::string svg(const picture& shown);

}  // namespace attention_map
