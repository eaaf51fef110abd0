// The safetensors format: 8 bytes of header length, a JSON header naming each tensor's type, shape
// and place, then the data. Nothing of the file is believed before it is checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace minilm {

struct tensor {
  std::string dtype;                 // "F32", "I64", ...
  std::vector<std::uint64_t> shape;  // row-major; empty for a scalar
  std::span<const std::byte> data;   // product(shape) elements, little-endian
};

using tensor_map = std::map<std::string, tensor, std::less<>>;

// The tensors of a file that is already in memory; their data point into it. Throws unless the
// header is well-formed and the tensors tile the data exactly: no gap, no overlap, nothing beyond
// the end.
tensor_map parse_safetensors(std::span<const std::byte> file);

// A file mapped read-only. Copies share the mapping.
class safetensors {
 public:
  explicit safetensors(const std::filesystem::path& file);

  const tensor_map& tensors() const { return tensors_; }

  // The values of an F32 tensor that must exist and have this shape; valid as long as this object
  // or a copy of it. They are read in place, unless they lie at an address that no float may have.
  std::span<const float> floats(const std::string& name, const std::vector<std::uint64_t>& shape);

 private:
  std::string path_;
  std::shared_ptr<const std::byte> file_;
  std::vector<std::shared_ptr<const std::vector<float>>> realigned_;
  tensor_map tensors_;
};

}  // namespace minilm
