// replay FOLDER: gives a fuzz target every file of its corpus, as the fuzzer would. Nothing is
// printed but where it stands, so that an input that ends the program is known.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data,  // NOLINT(*-naming): the fuzzer's
                                      std::size_t size);

int main(int count, char** words) {
  std::vector<std::filesystem::path> files;
  for (int n = 1; n < count; ++n) {
    if (std::filesystem::is_directory(words[n])) {
      const std::filesystem::directory_iterator folder(words[n]);
      files.insert(files.end(), begin(folder), end(folder));
    } else {
      files.emplace_back(words[n]);
    }
  }
  std::sort(files.begin(), files.end());
  for (const std::filesystem::path& file : files) {
    std::printf("%s\n", file.c_str());
    std::fflush(stdout);
    std::ifstream in(file, std::ios::binary);
    const std::vector<char> all((std::istreambuf_iterator<char>(in)),
                                std::istreambuf_iterator<char>());
    // In memory of its own, whose end a sanitizer knows.
    const std::vector<std::uint8_t> bytes(all.begin(), all.end());
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  }
  std::printf("%zu inputs\n", files.size());
  return files.empty() ? 1 : 0;
}
