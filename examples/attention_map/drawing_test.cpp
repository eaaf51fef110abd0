// What attention_map makes of text and weights: words, labels, the heat map of the terminal, SVG.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <regex>
#include <set>
#include <sstream>

#include "minilm/files.hpp"
#include "picture.hpp"
#include "support/catch.hpp"
#include "svg.hpp"
#include "terminal.hpp"
#include "text.hpp"
#include "xml_error.hpp"

using namespace attention_map;
using attention_map_test::xml_error;
using words_list = std::vector<std::string>;

namespace {

const std::string sentence = "Bill is going to the theatre to watch a new movie";

int occurrences(const std::string& text, std::string_view part) {
  int count = 0;
  for (auto at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++count;
  return count;
}

std::string without_colours(const std::string& text) {
  return std::regex_replace(text, std::regex("\033\\[[0-9;]*m"), "");
}

int widest_line(const std::string& text) {
  std::istringstream lines(without_colours(text));
  int result = 0;
  for (std::string line; std::getline(lines, line);) result = std::max(result, display_width(line));
  return result;
}

// Texts of all lengths, with words that are long, wide, repeated, or need escaping.
std::string text_of(int words) {
  static const words_list some = {"to",   "be",     "<or>", "internationalization", "我喜欢看电影",
                                  "&not", "a\"b'c", "🎬",   "e\u0301lan",           "한글"};
  std::string text;
  for (int i = 0; i < words; ++i) text += some[static_cast<std::size_t>(i) % some.size()] + " ";
  return text;
}

// The standard output as a terminal of that many columns, as long as this lives.
class pretended_terminal {
 public:
  explicit pretended_terminal(unsigned short columns)
      : saved_(dup(STDOUT_FILENO)), controller_(posix_openpt(O_RDWR | O_NOCTTY)) {
    REQUIRE((grantpt(controller_) == 0 && unlockpt(controller_) == 0));
    const int terminal = open(ptsname(controller_), O_RDWR | O_NOCTTY);
    winsize size{};
    size.ws_col = columns;
    REQUIRE(ioctl(terminal, TIOCSWINSZ, &size) == 0);
    dup2(terminal, STDOUT_FILENO);
    close(terminal);
  }
  pretended_terminal(const pretended_terminal&) = delete;
  pretended_terminal& operator=(const pretended_terminal&) = delete;
  ~pretended_terminal() {
    dup2(saved_, STDOUT_FILENO);
    close(saved_);
    close(controller_);
  }

 private:
  int saved_, controller_;
};

screen seen_on_terminal(unsigned short columns) {
  const pretended_terminal terminal(columns);
  return standard_output();
}

}  // namespace

TEST_CASE("words are lower-cased and cut at spaces and punctuation") {
  CHECK(words("Bill's NEW\tmovie, Élan\n") ==
        words_list{"bill", "'", "s", "new", "movie", ",", "elan"});
  CHECK(words("看电影!") == words_list{"看", "电", "影", "!"});
  CHECK(words(" \n\u00A0").empty());
  CHECK_THROWS_WITH(words("a\xFF"), "invalid UTF-8 at byte 1");
}

TEST_CASE("printable text keeps to one line and holds no control characters") {
  CHECK(printable("a\nb\tc") == "a b c");
  CHECK(printable("\033[31mred\x7F") == "\uFFFD[31mred\uFFFD");
  CHECK(printable("\uFFFF") == "\uFFFD");
  CHECK(printable("Élan 我 🎬") == "Élan 我 🎬");
}

TEST_CASE("width counts columns, not bytes or code points") {
  CHECK(display_width("theatre") == 7);
  CHECK(display_width("e\u0301lan") == 4);
  CHECK(display_width("élan") == 4);
  CHECK(display_width("电影") == 4);
  CHECK(display_width("🎬") == 2);
  CHECK(display_width("한글") == 4);
  CHECK(display_width("\u1112\u1161\u11AB") == 2);  // the same syllable in its three letters
  CHECK(padded("电", 4) == "电  ");
}

TEST_CASE("shortened text fits, and is whole where it can be") {
  for (const std::string text : {"internationalization", "我喜欢看电影", "e\u0301lan"}) {
    for (int width = 1; width <= 21; ++width) {
      const std::string result = shortened(text, width);
      CHECK(display_width(result) <= width);
      CHECK((display_width(text) <= width ? result == text : result.ends_with("…")));
    }
  }
  CHECK(shortened("theatre", 6) == "theat…");
}

TEST_CASE("labels tell equal tokens apart") {
  CHECK(labels({"to", "be", "to"}) == words_list{"to₁", "be", "to₂"});
  const words_list many = labels(words_list(12, "to"));
  CHECK(many.back() == "to₁₂");
  CHECK(std::set(many.begin(), many.end()).size() == 12);
}

TEST_CASE("the heat map of a small picture") {
  const picture shown{"",
                      "",
                      {"new", "theatre", "to"},
                      Eigen::Matrix3f{{0.9f, 0.1f, 0}, {0, 0.5f, 0.5f}, {0.25f, 0.25f, 0.5f}}};
  CHECK(draw(shown, {.width = 80}) ==
        "                theatre\n"
        "          new   │     to    sum   strongest\n"
        "new     ██████░░░░░░        1.000 new     90%\n"
        "theatre       ▓▓▓▓▓▓▓▓▓▓▓▓  1.000 theatre 50%\n"
        "to      ▒▒▒▒▒▒▒▒▒▒▒▒▓▓▓▓▓▓  1.000 to      50%\n"
        "\n"
        "from ░ 5% ▒ 23% ▓ 45% █ 67%, up to 90%\n");
}

TEST_CASE("the heat map keeps to the width and shows the sum of every row") {
  for (const int length : {1, 2, 9, 10, 20, 23, 24, 60}) {
    const picture shown = from_random_weights(text_of(length), {});
    const int tokens = static_cast<int>(shown.tokens.size());
    CHECK((shown.weights.rowwise().sum().array() - 1).abs().maxCoeff() < 1e-5f);
    for (const int width : {40, 80, 133}) {
      CAPTURE(length, width);
      const std::string drawn = draw(shown, {.width = width});
      CHECK(widest_line(drawn) <= width);
      CHECK(occurrences(drawn, " 1.000 ") == tokens);
      for (const colours depth : {colours::palette, colours::all}) {
        const std::string coloured = draw(shown, {.width = width, .depth = depth});
        CHECK(widest_line(coloured) <= width);
        CHECK(occurrences(coloured, " 1.000 ") == tokens);
        CHECK(occurrences(coloured, depth == colours::all ? ";48;2;" : ";48;5;") > tokens * tokens);
        CHECK(coloured.rfind("\033[0m") > coloured.rfind(";48;"));
      }
    }
  }
}

TEST_CASE("coloured cells say their weight in percent") {
  const std::string drawn = draw(from_random_weights(sentence, {}), {.depth = colours::all});
  CHECK(without_colours(drawn).find(
            "going     2   2   1  32   2   5  48   3   1   1   3   1.000 to₂") != drawn.npos);
}

TEST_CASE("weights that are not numbers are not drawn") {
  picture shown{"a b", "a test", {"a", "b"}, Eigen::MatrixXf::Constant(2, 2, 0.5f)};
  for (const float x :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    shown.weights(1, 0) = x;
    const std::string expected =
        "the attention in a test is not a number everywhere, it should be between 0 and 1";
    CHECK_THROWS_WITH(svg(shown), expected);
    CHECK_THROWS_WITH(draw(shown, {80, colours::none}), expected);
    CHECK_THROWS_WITH(draw(shown, {80, colours::palette}), expected);
  }
}

TEST_CASE("random weights are the same everywhere, and not flat") {
  const picture shown = from_random_weights(sentence, {});
  CHECK(shown.weights(2, 6) == Approx(0.4824f).margin(5e-4));
  CHECK(shown.weights.maxCoeff() > 0.4f);
  const picture mean = from_random_weights(sentence, {.mean_of_heads = true});
  Eigen::MatrixXf sum = Eigen::MatrixXf::Zero(11, 11);
  for (int head = 0; head < 4; ++head) sum += from_random_weights(sentence, {.head = head}).weights;
  CHECK((mean.weights - sum / 4).cwiseAbs().maxCoeff() < 1e-6f);
}

TEST_CASE("the screen is what terminal and environment say") {
  for (const char* name : {"COLUMNS", "NO_COLOR", "COLORTERM"}) unsetenv(name);
  setenv("TERM", "xterm", 1);
  CHECK(seen_on_terminal(100).width == 100);
  CHECK(seen_on_terminal(100).depth == colours::palette);
  setenv("COLORTERM", "truecolor", 1);
  CHECK(seen_on_terminal(100).depth == colours::all);
  setenv("COLUMNS", "60", 1);
  CHECK(seen_on_terminal(100).width == 60);
  setenv("NO_COLOR", "1", 1);
  CHECK(seen_on_terminal(100).depth == colours::none);
  unsetenv("NO_COLOR");
  setenv("TERM", "dumb", 1);
  CHECK(seen_on_terminal(100).depth == colours::none);
  setenv("COLUMNS", "many", 1);
  CHECK(seen_on_terminal(0).width == 80);
}

TEST_CASE("what is not well-formed XML is found out") {
  CHECK(xml_error("<a b=\"1\"><c/>x &amp; y</a>\n").empty());
  for (const char* wrong : {"", "<a>", "<a></b>", "<a b=1/>", "<a b=\"<\"/>", "<a>&</a>",
                            "<a/><b/>", "<a b=\"1\" b=\"2\"/>", "x<a/>", "<a>\033</a>"}) {
    CAPTURE(wrong);
    CHECK(!xml_error(wrong).empty());
  }
}

TEST_CASE("the SVG is well-formed and has a tooltip for every pair") {
  for (const int length : {1, 9, 30}) {
    const picture shown = from_random_weights(text_of(length), {});
    const std::string drawn = svg(shown);
    const int tokens = static_cast<int>(shown.tokens.size());
    CHECK(xml_error(drawn).empty());
    CHECK(occurrences(drawn, " → ") == tokens * tokens);
    CHECK(occurrences(drawn, "<title>") == tokens * tokens + 1);
  }
  const std::string drawn = svg(from_random_weights(sentence, {}));
  CHECK(drawn.find("<title>going → to₂: 48%</title>") != drawn.npos);
  CHECK(drawn.find("Who attends to whom in: " + sentence) != drawn.npos);
}
