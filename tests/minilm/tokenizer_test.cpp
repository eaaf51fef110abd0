// The tokenizer on vocabularies made up for one rule each; golden_test.cpp has the real one.
#include "tokenizer.hpp"

#include <initializer_list>

#include "files.hpp"
#include "support/catch.hpp"
#include "unicode_table.hpp"
#include "utf8.hpp"

using namespace minilm_test;

namespace {

const std::string specials = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n";

minilm::tokenizer with_pieces(std::initializer_list<const char*> pieces) {
  const temporary_folder folder;
  std::string vocabulary = specials;
  for (const char* piece : pieces) vocabulary += std::string(piece) + "\n";
  return minilm::tokenizer(folder.write("vocab.txt", vocabulary));
}

std::string pieces(const minilm::tokenizer& tokenizer, std::string_view text,
                   std::size_t max_tokens = 256) {
  std::string joined;
  for (const std::string& piece : tokenizer.encode(text, max_tokens).pieces) {
    joined += (joined.empty() ? "" : " ") + piece;
  }
  return joined;
}

std::string vocabulary_error(std::string_view contents) {
  const temporary_folder folder;
  const auto path = folder.write("vocab.txt", contents);
  const std::string error = error_of([&] { minilm::tokenizer{path}; });
  return error.empty() ? error : error.substr(path.string().size());
}

std::string repeated(std::string_view text, int count) {
  std::string result;
  for (int i = 0; i < count; ++i) result += text;
  return result;
}

}  // namespace

TEST_CASE("tokenizer: ids are line numbers, [CLS] and [SEP] go around") {
  const minilm::tokenizer t = with_pieces({"hello", "world"});
  CHECK(t.size() == 7);
  const minilm::encoding e = t.encode("Hello\tWORLD\n");
  CHECK(e.ids == std::vector<int>{2, 5, 6, 3});
  CHECK(e.pieces == std::vector<std::string>{"[CLS]", "hello", "world", "[SEP]"});
  CHECK(t.encode("").ids == std::vector<int>{2, 3});
  CHECK(t.encode(" \u3000 ").ids == std::vector<int>{2, 3});
}

TEST_CASE("tokenizer: the longest piece first, and one unknown for a word that does not divide") {
  const minilm::tokenizer t = with_pieces({"un", "una", "##able", "##ff", "##a", "able", "ff"});
  CHECK(pieces(t, "unaffable") == "[CLS] una ##ff ##able [SEP]");
  CHECK(pieces(t, "unable") == "[CLS] [UNK] [SEP]");  // una leaves ble; greedy does not go back
  CHECK(pieces(t, "able unaffab able") == "[CLS] able [UNK] able [SEP]");
  CHECK(pieces(t, "affable") == "[CLS] [UNK] [SEP]");  // ##a does not begin a word
}

TEST_CASE("tokenizer: a word of 100 code points is divided, a longer one is unknown") {
  const minilm::tokenizer t = with_pieces({"a", "##a", "e", "##e"});
  CHECK(t.encode(repeated("a", 100)).ids.size() == 102);
  CHECK(pieces(t, repeated("a", 101)) == "[CLS] [UNK] [SEP]");
  CHECK(t.encode(repeated("e\u0301", 100)).ids.size() == 102);  // counted after accents are dropped
  CHECK(pieces(t, repeated("\u00E9", 101)) == "[CLS] [UNK] [SEP]");
}

TEST_CASE("tokenizer: characters are dropped, mapped, isolated or split at") {
  const minilm::tokenizer t =
      with_pieces({"ab", "a", "b", "e", "'", "-", "$", "\u03C3", "i", "\u00DF", "\u4E1C", "\u20AC",
                   "\u1112", "##\u1161", "##\u11AB", "##b"});
  CHECK(pieces(t, "a\u200Bb a\u00ADb a\u0301b a\uFFFDb") == "[CLS] ab ab ab ab [SEP]");
  CHECK(pieces(t, std::string_view("a\0b", 3)) == "[CLS] ab [SEP]");
  CHECK(pieces(t, "a\u00A0b a\u2028b") == "[CLS] a b a b [SEP]");
  CHECK(pieces(t, "a'b-$") == "[CLS] a ' b - $ [SEP]");
  CHECK(pieces(t, "a\u4E1Cb") == "[CLS] a \u4E1C b [SEP]");
  CHECK(pieces(t, "\u20ACb") == "[CLS] \u20AC ##b [SEP]");  // a symbol does not split
  CHECK(pieces(t, "\u00C9 \u03A3 \u0130 \u1E9E") == "[CLS] e \u03C3 i \u00DF [SEP]");
  CHECK(pieces(t, "\uD55C \uD558") ==
        "[CLS] \u1112 ##\u1161 ##\u11AB \u1112 ##\u1161 [SEP]");  // Hangul with and without trail
}

TEST_CASE("tokenizer: special pieces are found in the raw text, case and all") {
  const minilm::tokenizer t = with_pieces({"a", "b", "[", "]", "sep"});
  CHECK(pieces(t, "a[SEP]b[MASK][PAD]") == "[CLS] a [SEP] b [MASK] [PAD] [SEP]");
  CHECK(pieces(t, "[sep][SEP[CLS]") == "[CLS] [ sep ] [ sep [CLS] [SEP]");
}

TEST_CASE("tokenizer: a text that is too long is cut, inside a word if need be") {
  const minilm::tokenizer t = with_pieces({"a", "##b", "c"});
  CHECK(pieces(t, "ab c", 5) == "[CLS] a ##b c [SEP]");
  CHECK(pieces(t, "ab c", 4) == "[CLS] a ##b [SEP]");
  CHECK(pieces(t, "ab c", 3) == "[CLS] a [SEP]");
  CHECK(pieces(t, "ab c", 2) == "[CLS] [SEP]");
  CHECK(error_of([&] { t.encode("ab c", 1); }) == "max_tokens is 1, [CLS] and [SEP] alone are 2");
}

TEST_CASE("tokenizer: what is not UTF-8 is refused by its byte") {
  const minilm::tokenizer t = with_pieces({"a"});
  const std::vector<std::string> bad = {
      "\x80",              // a continuation byte that continues nothing
      "\xC3",              // cut off
      "\xC3(",             // not continued
      "\xE2\x82",          // cut off
      "\xF0\x9F\x98",      // cut off
      "\xC0\x80",          // overlong
      "\xE0\x9F\xBF",      // overlong
      "\xF0\x8F\xBF\xBF",  // overlong
      "\xED\xA0\x80",      // a surrogate
      "\xF4\x90\x80\x80",  // beyond U+10FFFF
      "\xF8\x88\x80\x80",  // five bytes
      "\xFF",
  };
  for (const std::string& bytes : bad) {
    CHECK(error_of([&] { t.encode("a\u20AC" + bytes); }) == "invalid UTF-8 at byte 4");
    CHECK(error_of([&] { t.encode(bytes + " a"); }) == "invalid UTF-8 at byte 0");
  }
  for (const char* good : {"\u007F", "\u0080", "\u07FF", "\u0800", "\uD7FF", "\uE000", "\uFFFF",
                           "\U00010000", "\U0010FFFF"}) {
    CHECK(t.encode(good).ids.size() >= 2);
  }
}

TEST_CASE("UTF-8: every code point survives writing and reading") {
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c == 0xD800) c = 0xE000;
    std::string text;
    minilm::append_utf8(text, c);
    std::size_t at = 0;
    const bool same = minilm::next_code_point(text, at) == c && at == text.size();
    if (!same) CHECK(c == 0);  // a million passing checks would take seconds
  }
}

TEST_CASE("tokenizer: a broken vocabulary is refused by its line") {
  CHECK(vocabulary_error(specials).empty());
  CHECK(vocabulary_error(specials + "last line without an end").empty());
  CHECK(vocabulary_error("") == ": the piece [PAD] is missing");
  CHECK(vocabulary_error("[PAD]\n[UNK]\n[CLS]\n[MASK]\n") == ": the piece [SEP] is missing");
  CHECK(vocabulary_error(specials + "a\nb\na\n") == ", line 8: the piece \"a\" occurs twice");
  CHECK(vocabulary_error(specials + "\na\n") == ", line 6: empty");
  CHECK(vocabulary_error(specials + "a\xFF\n") == ", line 6: invalid UTF-8 at byte 1");
  CHECK(error_of([] { minilm::tokenizer{"/nowhere/vocab.txt"}; }) ==
        "/nowhere/vocab.txt: cannot be opened");
}

TEST_CASE(
    "unicode table: ascending, disjoint, and only letters and words of their own are mapped") {
  using minilm::kind;
  const auto table = minilm::unicode_table();
  REQUIRE(table.size() > 2000);
  char32_t next = 0;
  bool sound = true;
  for (const minilm::unicode_range& range : table) {
    sound = sound && next <= range.first && range.first <= range.last && range.last <= 0x10FFFF;
    sound = sound && (range.kind == kind::dropped || range.kind == kind::space ||
                      range.kind == kind::isolated || range.kind == kind::letter);
    sound = sound && (range.kind == kind::letter) <= !range.mapped.empty();
    if (!range.mapped.empty()) {
      sound = sound && (range.kind == kind::letter || range.kind == kind::isolated);
    }
    next = range.last + 1;
  }
  CHECK(sound);
}
