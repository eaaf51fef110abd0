// Reads a case: the file case.txt (lines `key = value`) and the arrays that it names.
// What is missing, doubled or at odds with an array's own header is a std::runtime_error.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "support/npy.hpp"

namespace attn_test {

class case_file {
 public:
  explicit case_file(const std::filesystem::path& file) : folder_(file.parent_path()) {
    std::ifstream in(file);
    if (!in.is_open()) throw std::runtime_error("cannot read " + file.string());
    for (std::string line; std::getline(in, line);) {
      const std::size_t equals = line.find(" = ");
      if (equals == std::string::npos) throw std::runtime_error("no ' = ' in line: " + line);
      if (!values_.emplace(line.substr(0, equals), line.substr(equals + 3)).second) {
        throw std::runtime_error("key given twice in line: " + line);
      }
    }
  }

  const std::string& text(const std::string& key) const {
    const auto found = values_.find(key);
    if (found == values_.end()) throw std::runtime_error("the case has no '" + key + "'");
    return found->second;
  }
  double number(const std::string& key) const { return std::stod(text(key)); }

  bool has(const std::string& key) const { return values_.contains(key); }
  bool has_input(const std::string& name) const { return has("input." + name + ".file"); }
  bool has_output(const std::string& name) const { return has("output." + name + ".file"); }

  double attribute(const std::string& name, double otherwise) const {
    return has("attr." + name) ? number("attr." + name) : otherwise;
  }
  int attribute(const std::string& name, int otherwise) const {
    return has("attr." + name) ? std::stoi(text("attr." + name)) : otherwise;
  }
  template <class Number>
  std::optional<Number> attribute(const std::string& name) const {
    if (!has("attr." + name)) return std::nullopt;
    return static_cast<Number>(number("attr." + name));
  }

  // A case that asks for something unheard of must not pass because nobody looked.
  void allow_only(const std::set<std::string>& attributes, const std::set<std::string>& inputs,
                  const std::set<std::string>& outputs) const {
    for (const auto& [key, value] : values_) {
      if (key.starts_with("attr.")) known(attributes, "attribute", key.substr(5));
    }
    for (const std::string& name : names("inputs")) known(inputs, "input", name);
    for (const std::string& name : names("outputs")) known(outputs, "output", name);
  }

  std::vector<std::string> names(const std::string& key) const {
    std::istringstream words(text(key));
    std::vector<std::string> list;
    for (std::string word; words >> word;) {
      if (word != "-") list.push_back(word);  // an optional one that is left out
    }
    return list;
  }

  const std::string& dtype(const std::string& tensor) const { return text(tensor + ".dtype"); }

  // `tensor` is input.<name> or output.<name>.
  npy_array array(const std::string& tensor) const {
    npy_array result = read_npy(folder_ / text(tensor + ".file"));
    std::istringstream words(text(tensor + ".shape"));
    std::vector<std::int64_t> shape;
    for (std::int64_t extent = 0; words >> extent;) shape.push_back(extent);
    if (shape != result.shape) {
      throw std::runtime_error(tensor + " has another shape in case.txt than in its array");
    }
    return result;
  }

 private:
  static void known(const std::set<std::string>& list, std::string_view what,
                    const std::string& name) {
    if (list.contains(name)) return;
    throw std::runtime_error(std::string(what) + " '" + name + "' is not known to this test");
  }

  std::filesystem::path folder_;
  std::map<std::string, std::string> values_;
};

}  // namespace attn_test
