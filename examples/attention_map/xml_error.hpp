// Whether a text is well-formed XML: enough of the grammar for files without comments, CDATA,
// processing instructions and DTDs.
#pragma once

#include <algorithm>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace attention_map_test {

class xml_reader {
 public:
  explicit xml_reader(std::string_view text) : text_(text) {}

  // What is wrong, or nothing.
  std::string error() {
    while (error_.empty() && at_ < text_.size()) {
      next() == '<' ? tag() : characters();
    }
    if (error_.empty() && !open_.empty()) fail(open_.back() + " is not closed");
    if (error_.empty() && roots_ != 1) fail("not one root element");
    return error_;
  }

 private:
  char next() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool accept(std::string_view word) {
    const bool found = text_.substr(at_).starts_with(word);
    if (found) at_ += word.size();
    return found;
  }
  void fail(const std::string& message) {
    if (error_.empty()) error_ = message + " at byte " + std::to_string(at_);
  }
  void skip_space() {
    while (next() == ' ' || next() == '\n') ++at_;
  }

  std::string name() {
    const auto in_name = [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == ':';
    };
    const std::size_t first = at_;
    while (in_name(next())) ++at_;
    if (at_ == first) fail("no name");
    return std::string(text_.substr(first, at_ - first));
  }

  // Up to `end`, which stays.
  void text_until(char end) {
    while (error_.empty() && at_ < text_.size() && next() != end) {
      const auto byte = static_cast<unsigned char>(next());
      if (byte == '<') return fail("< in a value");
      if (byte < 0x20 && byte != '\n') return fail("a control character");
      if (byte != '&') {
        ++at_;
      } else if (!accept("&amp;") && !accept("&lt;") && !accept("&gt;") && !accept("&quot;")) {
        return fail("a bare &");
      }
    }
  }

  void characters() {
    const std::size_t first = at_;
    text_until('<');
    const std::string_view found = text_.substr(first, at_ - first);
    if (open_.empty() && found.find_first_not_of(" \n") != found.npos) fail("text outside");
  }

  void tag() {
    if (accept("</")) {
      const std::string closed = name();
      if (open_.empty() || open_.back() != closed) return fail(closed + " closes another element");
      open_.pop_back();
      if (!accept(">")) fail("no >");
      return;
    }
    ++at_;
    if (open_.empty()) ++roots_;
    const std::string opened = name();
    std::set<std::string> attributes;
    for (skip_space(); error_.empty() && !accept("/>"); skip_space()) {
      if (accept(">")) return open_.push_back(opened);
      if (!attributes.insert(name()).second) fail("an attribute twice");
      if (!accept("=\"")) fail("no =\"");
      text_until('"');
      if (!accept("\"")) fail("no closing \"");
    }
  }

  std::string_view text_;
  std::size_t at_ = 0;
  std::string error_;
  std::vector<std::string> open_;
  int roots_ = 0;
};

inline std::string xml_error(std::string_view text) { return xml_reader(text).error(); }

}  // namespace attention_map_test
