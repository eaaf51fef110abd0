// A strict JSON reader for what the header of a safetensors file holds: objects, arrays, strings
// and unsigned integers. The caller's calls are the grammar, so no input can nest deeper than they
// do.
#pragma once

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>

#include "error.hpp"

namespace minilm {

class json_reader {
 public:
  explicit json_reader(std::string_view text) : text_(text) {}

  // Calls read_member(name) at each value, which it must read. Names may not repeat.
  template <class ReadMember>
  void object(ReadMember read_member) {
    std::set<std::string> names;
    expect('{');
    if (accept('}')) return;
    do {
      const std::string name = string();
      if (!names.insert(name).second) fail("the name ", quoted(name), " occurs twice");
      expect(':');
      read_member(name);
    } while (accept(','));
    expect('}');
  }

  // Calls read_element() at each value, which it must read.
  template <class ReadElement>
  void array(ReadElement read_element) {
    expect('[');
    if (accept(']')) return;
    do {
      read_element();
    } while (accept(','));
    expect(']');
  }

  std::string string();
  std::uint64_t unsigned_integer();

  // Checks that only spaces are left: the format pads its header with them.
  void finish();

  // For messages: control characters made visible, long names cut.
  static std::string quoted(std::string_view name);

 private:
  bool accept(char wanted);
  void expect(char wanted);
  void skip_space();
  char32_t escape();
  char32_t four_hex_digits();
  [[noreturn]] void fail_expecting(std::string_view wanted) const;

  std::string_view text_;
  std::size_t at_ = 0;
};

}  // namespace minilm
