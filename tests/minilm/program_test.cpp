// What the program minilm says to mistakes: one line on stderr, nothing on stdout, exit code 1.
#include "program.hpp"

#include "files.hpp"
#include "small_model.hpp"
#include "support/catch.hpp"

using namespace minilm_test;

namespace {

void check_refused(const std::vector<std::string>& arguments, const std::string& message) {
  CAPTURE(arguments);
  const outcome result = run_program(arguments);
  CHECK(result.exit_code == 1);
  CHECK(result.out.empty());
  CHECK(result.error == "minilm: " + message + "\n");
}

}  // namespace

TEST_CASE("minilm --help explains itself, the model included") {
  const outcome result = run_program({"--help"});
  CHECK(result.exit_code == 0);
  CHECK(result.error.empty());
  for (const char* part : {"usage: minilm embed", "minilm similar", "--model DIR", "pip install"}) {
    CHECK(result.out.find(part) != result.out.npos);
  }
  CHECK(run_program({"embed", "--help", "text"}).out == result.out);
}

TEST_CASE("minilm refuses what it does not understand") {
  check_refused({}, "no command given; minilm --help explains");
  check_refused({"sing", "a"}, "unknown command \"sing\", expected embed, similar or time");
  check_refused({"time", "a"}, "time takes no text");
  check_refused({"embed"}, "embed needs at least 1 text, found 0");
  check_refused({"similar", "a"}, "similar needs at least 2 texts, found 1");
  check_refused({"embed", "--modle", "x", "a"},
                "unknown option --modle; put -- before texts that begin with --");
  check_refused({"embed", "a", "--model"}, "--model needs a folder");
}

TEST_CASE("minilm says where to get a model that is not there") {
  const std::string hint =
      "; say --model DIR or set ATTN_MINILM_MODEL (minilm --help says how to get it)";
  check_refused({"embed", "a"}, "no model.safetensors in \"\"" + hint);
  check_refused({"embed", "--", "--model"}, "no model.safetensors in \"\"" + hint);
  const temporary_folder folder;
  check_refused({"embed", "--model", folder.path().string(), "a"},
                "no model.safetensors in \"" + folder.path().string() + "\"" + hint);
}

TEST_CASE("minilm refuses broken models") {
  const temporary_folder folder;
  const std::vector<std::string> arguments = {"embed", "--model", folder.path().string(), "a"};
  const std::string model = folder.write("model.safetensors", "short").string();
  const std::string vocabulary = (folder.path() / "vocab.txt").string();
  check_refused(arguments, vocabulary + ": cannot be opened");
  folder.write("vocab.txt", small_vocabulary);
  check_refused(arguments, model + ": truncated: 5 bytes, the header length alone takes 8");
  folder.write("model.safetensors", safetensors_file("{", ""));
  check_refused(arguments, model + ": header: byte 1: expected a string, found the end");
  folder.write("model.safetensors", safetensors_file("{}", ""));
  check_refused(arguments, model + ": tensor \"embeddings.word_embeddings.weight\" is missing");
  folder.write("model.safetensors", safetensors_file(small_tensors()));
  check_refused(arguments, model +
                               ": tensor \"embeddings.word_embeddings.weight\" is F32 of shape "
                               "[11, 12], expected F32 of shape [11, 384]");
}
