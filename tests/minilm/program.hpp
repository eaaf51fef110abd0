// Runs the program minilm as a user would, and keeps what it said.
#pragma once

#include <sys/wait.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "files.hpp"

namespace minilm_test {

struct outcome {
  int exit_code;
  std::string out, error;
};

// A word for the shell to take as it is.
inline std::string quoted(const std::string& word) {
  std::string result(1, '\'');
  for (const char c : word) c == '\'' ? result.append("'\\''") : result.append(1, c);
  return result.append(1, '\'');
}

inline outcome run_program(const std::vector<std::string>& arguments) {
  const temporary_folder folder;
  const std::filesystem::path out = folder.path() / "out", error = folder.path() / "error";
  std::string command = "unset ATTN_MINILM_MODEL; ";
  command += quoted(MINILM_PROGRAM);
  for (const std::string& word : arguments) command.append(1, ' ').append(quoted(word));
  command += " >" + quoted(out.string()) + " 2>" + quoted(error.string());
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_text(out), read_text(error)};
}

}  // namespace minilm_test
