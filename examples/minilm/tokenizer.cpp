#include "tokenizer.hpp"

#include <algorithm>
#include <fstream>
#include <optional>

#include "error.hpp"
#include "unicode_table.hpp"
#include "utf8.hpp"

namespace minilm {
namespace {

constexpr std::string_view special_pieces[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
constexpr std::string_view continuation = "##";  // before a piece that does not begin a word
constexpr std::size_t longest_word = 100;        // in code points; a longer word is unknown

struct character {
  minilm::kind kind;
  std::u32string becomes;
};

// Hangul syllables are numbered leading consonant by vowel by trailing consonant (which may be
// none): Unicode, section 3.12.
std::u32string decompose_hangul(char32_t syllable) {
  constexpr char32_t vowels = 21, trails = 28;
  const char32_t n = syllable - 0xAC00;
  std::u32string parts = {0x1100 + n / (vowels * trails), 0x1161 + n / trails % vowels};
  if (n % trails != 0) parts.push_back(0x11A7 + n % trails);
  return parts;
}

character look_up(char32_t code_point) {
  if (code_point >= 0xAC00 && code_point <= 0xD7A3) {
    return {kind::letter, decompose_hangul(code_point)};
  }
  const auto table = unicode_table();
  const auto range = std::ranges::lower_bound(table, code_point, {}, &unicode_range::last);
  if (range == table.end() || code_point < range->first) return {kind::letter, {code_point}};
  if (range->mapped.empty()) return {range->kind, {code_point}};
  return {range->kind, std::u32string(range->mapped)};
}

// The special piece at the start of the text, if there is one.
std::optional<std::string_view> special_piece_at(std::string_view text) {
  for (const std::string_view piece : special_pieces) {
    if (text.starts_with(piece)) return piece;
  }
  return std::nullopt;
}

void check_utf8(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) next_code_point(text, at);
}

}  // namespace

tokenizer::tokenizer(const std::filesystem::path& vocabulary) {
  std::ifstream file(vocabulary, std::ios::binary);
  const std::string name = vocabulary.string();
  if (!file) fail(name, ": cannot be opened");
  for (std::string line; std::getline(file, line);) {
    const std::size_t number = pieces_.size() + 1;
    try {
      check_utf8(line);
    } catch (const std::runtime_error& error) {
      fail(name, ", line ", number, ": ", error.what());
    }
    if (line.empty()) fail(name, ", line ", number, ": empty");
    if (!ids_.emplace(line, static_cast<int>(number - 1)).second) {
      fail(name, ", line ", number, ": the piece \"", line, "\" occurs twice");
    }
    longest_piece_ = std::max(longest_piece_, line.size());
    pieces_.push_back(std::move(line));
  }
  if (file.bad()) fail(name, ": cannot be read");
  for (const std::string_view piece : special_pieces) {
    if (!ids_.contains(std::string(piece))) fail(name, ": the piece ", piece, " is missing");
  }
}

encoding tokenizer::encode(std::string_view utf8, std::size_t max_tokens) const {
  if (max_tokens < 2) fail("max_tokens is ", max_tokens, ", [CLS] and [SEP] alone are 2");
  std::vector<int> ids = {ids_.at("[CLS]")};
  std::string word;
  std::size_t word_length = 0;  // in code points
  const auto end_word = [&] {
    if (word_length > longest_word) {
      ids.push_back(ids_.at("[UNK]"));
    } else if (word_length > 0) {
      append_word(word, ids);
    }
    word.clear();
    word_length = 0;
  };

  for (std::size_t at = 0; at < utf8.size();) {
    if (const auto special = special_piece_at(utf8.substr(at))) {
      end_word();
      ids.push_back(ids_.at(std::string(*special)));
      at += special->size();
      continue;
    }
    const character next = look_up(next_code_point(utf8, at));
    if (next.kind == kind::dropped) continue;
    if (next.kind != kind::letter) end_word();
    if (next.kind == kind::space) continue;
    for (const char32_t code_point : next.becomes) append_utf8(word, code_point);
    word_length += next.becomes.size();
    if (next.kind == kind::isolated) end_word();
  }
  end_word();

  ids.resize(std::min(ids.size(), max_tokens - 1));
  ids.push_back(ids_.at("[SEP]"));
  encoding result{std::move(ids), {}};
  for (const int id : result.ids) result.pieces.push_back(pieces_[static_cast<std::size_t>(id)]);
  return result;
}

// The longest piece that fits, then the longest that continues it, and so on. Where none fits, the
// whole word is unknown. A piece is valid UTF-8, so no match ends inside a code point.
void tokenizer::append_word(std::string_view word, std::vector<int>& ids) const {
  const std::size_t before = ids.size();
  for (std::size_t at = 0; at < word.size();) {
    const std::string_view prefix = at == 0 ? "" : continuation;
    std::string candidate(prefix);
    candidate += word.substr(at, longest_piece_);
    auto found = ids_.end();
    while (candidate.size() > prefix.size() && (found = ids_.find(candidate)) == ids_.end()) {
      candidate.pop_back();
    }
    if (found == ids_.end()) {
      ids.resize(before);
      ids.push_back(ids_.at("[UNK]"));
      return;
    }
    ids.push_back(found->second);
    at += candidate.size() - prefix.size();
  }
}

}  // namespace minilm
