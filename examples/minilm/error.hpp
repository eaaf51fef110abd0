// fail(parts...): every error of this example is a std::runtime_error with one readable line.
// The programs print it and exit with code 1.
#pragma once

#include <sstream>
#include <stdexcept>

namespace minilm {

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

}  // namespace minilm
