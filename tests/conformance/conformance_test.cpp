// Runs the cases of a folder: conformance_test [FOLDER]. One line a case, then the totals. No case
// at all is a failure.

#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>
#include <vector>

#include "conformance/case_file.hpp"
#include "conformance/onnx_attention.hpp"
#include "conformance/onnx_rotary.hpp"
#include "conformance/onnx_softmax.hpp"

namespace {

namespace fs = std::filesystem;
using attn_test::case_file;
using attn_test::closeness;

constexpr int skip_return_code = 77;

// One unit in the last place of float16 is 9.8e-4 at worst: a tolerance of 1e-3 leaves no room for
// goldens that were rounded after every step.
constexpr double float16_rtol = 2e-3;

closeness tolerance(const case_file& from, const std::string& dtype) {
  const double rtol = from.number("rtol");
  return {dtype == "float16" ? std::max(rtol, float16_rtol) : rtol, from.number("atol")};
}

void run(const case_file& from) {
  const std::string& op = from.text("op");
  if (op == "Attention") {
    const std::string& dtype = from.dtype("input.Q");
    const closeness allowed = tolerance(from, dtype);
    if (dtype == "float64" || attn_test::asks_for_double(from)) {
      attn_test::run_attention<double>(from, allowed);
    } else if (dtype == "float32") {
      attn_test::run_attention<float>(from, allowed);
    } else if (dtype == "float16") {
      attn_test::run_attention<Eigen::half>(from, allowed);
    } else if (dtype == "bfloat16") {
      attn_test::run_attention<Eigen::bfloat16>(from, allowed);
    } else {
      throw std::runtime_error("Q has dtype " + dtype + ", which is not known to this test");
    }
  } else if (op == "RotaryEmbedding") {
    const closeness allowed = tolerance(from, from.dtype("input.input"));
    attn_test::run_rotary<float>(from, allowed);
  } else if (op == "Softmax" || op == "LogSoftmax") {
    const closeness allowed = tolerance(from, from.dtype("input.x"));
    attn_test::run_softmax<float>(from, allowed);
  } else {
    throw std::runtime_error("operator " + op + " is not known to this test");
  }
}

std::vector<fs::path> find_cases(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.path().filename() == "case.txt") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

int run_all(const fs::path& folder) {
  int passed = 0, failed = 0;
  for (const fs::path& file : find_cases(folder)) {
    const std::string name = file.parent_path().filename().string();
    try {
      const case_file from(file);
      run(from);
      std::printf("passed   %s\n", name.c_str());
      ++passed;
    } catch (const std::exception& error) {
      std::printf("FAILED   %s: %s\n", name.c_str(), error.what());
      ++failed;
    }
  }
  std::printf("%d cases: %d passed, %d failed\n", passed + failed, passed, failed);
  if (passed == 0) std::printf("FAILED   no case was run in %s\n", folder.string().c_str());
  return failed == 0 && passed > 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::printf(
        "skipped: set ATTN_CONFORMANCE_DIR to a folder with cases to run them; "
        "tests/conformance/regenerate.py writes one\n");
    return skip_return_code;
  }
  try {
    return run_all(argv[1]);
  } catch (const std::exception& error) {
    std::printf("FAILED   %s\n", error.what());
    return 1;
  }
}
