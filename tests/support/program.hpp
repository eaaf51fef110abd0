// Runs a program as a user would, and keeps what it said.
#pragma once

#include <sys/wait.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "minilm/files.hpp"

namespace attn_test {

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

// `before`: what the shell does first; `input`: what the program reads.
inline outcome run(const std::string& program, const std::vector<std::string>& arguments,
                   const std::string& before = "", const std::string& input = "") {
  const minilm_test::temporary_folder folder;
  const std::filesystem::path out = folder.path() / "out", error = folder.path() / "error";
  std::string command = before + quoted(program);
  for (const std::string& word : arguments) command.append(1, ' ').append(quoted(word));
  command += " <" + quoted(folder.write("in", input).string());
  command += " >" + quoted(out.string()) + " 2>" + quoted(error.string());
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, minilm_test::read_text(out),
          minilm_test::read_text(error)};
}

}  // namespace attn_test
