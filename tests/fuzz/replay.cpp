// replay FOLDER: gives a fuzz target every file of its corpus, as the fuzzer would, and prints
// where it stands. C's library alone, for a memory sanitizer knows what it writes, not C++'s.
#include <dirent.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data,  // NOLINT(*-naming): the fuzzer's
                                      std::size_t size);

namespace {

bool replay(const char* folder, const char* name) {
  char path[4096];
  std::snprintf(path, sizeof path, "%s/%s", folder, name);
  std::printf("%s\n", path);
  std::fflush(stdout);  // so that an input that ends the program is known
  std::FILE* const file = std::fopen(path, "rb");
  if (file == nullptr) return false;
  std::vector<std::uint8_t> input;
  for (int byte = std::fgetc(file); byte != EOF; byte = std::fgetc(file)) {
    input.push_back(static_cast<std::uint8_t>(byte));
  }
  std::fclose(file);
  input.shrink_to_fit();  // a sanitizer sees what is read behind its end
  LLVMFuzzerTestOneInput(input.data(), input.size());
  return true;
}

}  // namespace

int main(int count, char** words) {
  if (count != 2) return 1;
  dirent** entries = nullptr;
  const auto of_input = [](const dirent* entry) { return entry->d_name[0] == '.' ? 0 : 1; };
  const int inputs = scandir(words[1], &entries, of_input, alphasort);
  if (inputs < 1) return 1;
  for (int n = 0; n < inputs; ++n) {
    if (!replay(words[1], entries[n]->d_name)) return 1;
    std::free(entries[n]);
  }
  std::free(static_cast<void*>(entries));
  std::printf("%d inputs\n", inputs);
  return 0;
}
