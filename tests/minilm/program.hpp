// Runs the program minilm as a user would, and keeps what it said.
#pragma once

#include "support/program.hpp"

namespace minilm_test {

using attn_test::outcome;

inline outcome run_program(const std::vector<std::string>& arguments) {
  return attn_test::run(MINILM_PROGRAM, arguments, "unset ATTN_MINILM_MODEL; ");
}

}  // namespace minilm_test
