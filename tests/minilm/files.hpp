// Files for the tests of the sentence encoder: a temporary folder, and safetensors built by hand.
#pragma once

#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace minilm_test {

// A folder that is gone at the end of the scope.
class temporary_folder {
 public:
  temporary_folder() {
    std::string name = (std::filesystem::temp_directory_path() / "attn-minilm-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
    path_ = name;
  }
  temporary_folder(const temporary_folder&) = delete;
  temporary_folder& operator=(const temporary_folder&) = delete;
  ~temporary_folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  const std::filesystem::path& path() const { return path_; }

  std::filesystem::path write(std::string_view name, std::string_view contents) const {
    const std::filesystem::path file = path_ / name;
    std::ofstream out(file, std::ios::binary);
    out << contents;
    if (!out.flush()) throw std::runtime_error("cannot write " + file.string());
    return file;
  }

 private:
  std::filesystem::path path_;
};

inline std::string read_text(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + file.string());
  std::ostringstream contents;
  contents << in.rdbuf();
  return contents.str();
}

// The message of what f throws, or nothing.
template <class F>
std::string error_of(F f) {
  try {
    f();
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return {};
}

inline std::string safetensors_file(std::uint64_t header_length, std::string_view header,
                                    std::string_view data) {
  std::string file(sizeof header_length, '\0');
  std::memcpy(file.data(), &header_length, sizeof header_length);
  return file.append(header).append(data);
}

inline std::string safetensors_file(std::string_view header, std::string_view data) {
  return safetensors_file(header.size(), header, data);
}

struct named_tensor {
  std::string name;
  std::vector<int> shape;
  std::vector<float> values;
  std::string dtype = "F32";
};

// The file that holds these tensors, one after the other; `padding` spaces end the header.
inline std::string safetensors_file(const std::vector<named_tensor>& tensors,
                                    std::size_t padding = 0) {
  std::ostringstream header;
  std::string data;
  const char* comma = "";
  header << "{";
  for (const named_tensor& t : tensors) {
    header << comma << "\"" << t.name << "\":{\"dtype\":\"" << t.dtype << "\",\"shape\":[";
    comma = "";
    for (const int extent : t.shape) {
      header << comma << extent;
      comma = ",";
    }
    const std::size_t size = t.values.size() * sizeof(float);
    header << "],\"data_offsets\":[" << data.size() << "," << data.size() + size << "]}";
    data.append(reinterpret_cast<const char*>(t.values.data()), size);
    comma = ",";
  }
  header << "}" << std::string(padding, ' ');
  return safetensors_file(header.str(), data);
}

}  // namespace minilm_test
