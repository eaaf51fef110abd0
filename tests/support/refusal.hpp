// What bad input is answered with.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

namespace attn_test {

// Empty if the call throws std::invalid_argument with each of the words in its message.
template <class F>
std::string missing(const F& call, const std::vector<std::string>& words) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    const std::string message = error.what();
    for (const std::string& word : words) {
      if (message.find(word) == std::string::npos) return "no \"" + word + "\" in: " + message;
    }
    return {};
  }
  return "accepted";
}

// The message of a refusal, empty where there is none.
template <class Error = std::invalid_argument, class F>
std::string message_of(const F& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

}  // namespace attn_test
