#include "safetensors.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>
#include <optional>
#include <string_view>
#include <utility>

#include "error.hpp"
#include "json_reader.hpp"

namespace minilm {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

constexpr std::size_t length_bytes = 8;
constexpr std::uint64_t longest_header = 100'000'000;  // the limit of the format's own reader

std::uint64_t element_size(const std::string& dtype) {
  static const std::map<std::string, std::uint64_t> sizes = {
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},   {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"U16", 2},
      {"I16", 2},  {"F16", 2}, {"BF16", 2}, {"U32", 4},     {"I32", 4},     {"F32", 4},
      {"U64", 8},  {"I64", 8}, {"F64", 8},  {"C64", 8},
  };
  const auto found = sizes.find(dtype);
  if (found == sizes.end()) fail("unknown dtype ", json_reader::quoted(dtype));
  return found->second;
}

std::string to_text(const std::vector<std::uint64_t>& shape) {
  std::string text = "[";
  for (const std::uint64_t extent : shape) {
    text += (text.size() > 1 ? ", " : "") + std::to_string(extent);
  }
  return text + "]";
}

// element size * product(shape), or an error where that is no 64-bit number
std::uint64_t byte_count(const tensor& of) {
  std::uint64_t bytes = element_size(of.dtype);
  for (const std::uint64_t extent : of.shape) {
    if (extent != 0 && bytes > std::numeric_limits<std::uint64_t>::max() / extent) {
      fail("the shape ", to_text(of.shape), " is too large");
    }
    bytes *= extent;
  }
  return bytes;
}

struct interval {
  std::uint64_t begin, end;
  auto operator<=>(const interval&) const = default;
};

interval read_interval(json_reader& json) {
  std::vector<std::uint64_t> bounds;
  json.array([&] { bounds.push_back(json.unsigned_integer()); });
  if (bounds.size() != 2) fail("data_offsets has ", bounds.size(), " numbers, not 2");
  return {bounds[0], bounds[1]};
}

struct placed_tensor {
  tensor what;
  interval where;
};

placed_tensor read_tensor(json_reader& json, std::span<const std::byte> data) {
  std::optional<std::string> dtype;
  std::optional<std::vector<std::uint64_t>> shape;
  std::optional<interval> where;
  json.object([&](const std::string& field) {
    if (field == "dtype") {
      dtype = json.string();
    } else if (field == "shape") {
      shape.emplace();
      json.array([&] { shape->push_back(json.unsigned_integer()); });
    } else if (field == "data_offsets") {
      where = read_interval(json);
    } else {
      fail("unknown field ", json_reader::quoted(field));
    }
  });
  if (!dtype) fail("dtype is missing");
  if (!shape) fail("shape is missing");
  if (!where) fail("data_offsets is missing");

  const auto [begin, end] = *where;
  if (begin > end) fail("data_offsets end at ", end, ", before they begin at ", begin);
  if (end > data.size()) {
    fail("data_offsets end at ", end, ", the file holds ", data.size(), " bytes of data");
  }
  tensor result{*std::move(dtype), *std::move(shape), data.subspan(begin, end - begin)};
  if (const std::uint64_t needed = byte_count(result); needed != end - begin) {
    fail("data_offsets cover ", end - begin, " bytes, ", result.dtype, " of shape ",
         to_text(result.shape), " needs ", needed);
  }
  return {std::move(result), *where};
}

void check_tiling(std::vector<interval> parts, std::uint64_t data_size) {
  std::sort(parts.begin(), parts.end());
  std::uint64_t covered = 0;
  for (const interval& part : parts) {
    if (part.begin < covered) fail("two tensors overlap at byte ", part.begin, " of the data");
    if (part.begin > covered) fail("no tensor covers byte ", covered, " of the data");
    covered = part.end;
  }
  if (covered != data_size) fail("no tensor covers byte ", covered, " of the data");
}

tensor_map parse_header(std::string_view header, std::span<const std::byte> data) {
  if (!header.starts_with('{')) fail("it does not start with '{'");
  json_reader json(header);
  tensor_map tensors;
  std::vector<interval> parts;
  json.object([&](const std::string& name) {
    if (name == "__metadata__") {
      json.object([&](const std::string&) { json.string(); });
      return;
    }
    try {
      auto [what, where] = read_tensor(json, data);
      parts.push_back(where);
      tensors.emplace(name, std::move(what));
    } catch (const std::runtime_error& error) {
      fail("tensor ", json_reader::quoted(name), ": ", error.what());
    }
  });
  json.finish();
  check_tiling(std::move(parts), data.size());
  return tensors;
}

struct file_descriptor {
  int number;
  ~file_descriptor() {
    if (number >= 0) close(number);
  }
};

std::span<const std::byte> map_file(const char* path) {
  const file_descriptor file{open(path, O_RDONLY | O_CLOEXEC)};
  struct stat status{};
  if (file.number < 0 || fstat(file.number, &status) != 0) fail(std::strerror(errno));
  if (!S_ISREG(status.st_mode)) fail("not a regular file");
  const auto size = static_cast<std::size_t>(status.st_size);
  if (size == 0) return {};  // mmap refuses to map nothing
  void* const memory = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.number, 0);
  if (memory == MAP_FAILED) fail(std::strerror(errno));
  return {static_cast<const std::byte*>(memory), size};
}

}  // namespace

tensor_map parse_safetensors(std::span<const std::byte> file) {
  std::uint64_t header_size = 0;
  if (file.size() < length_bytes) {
    fail("truncated: ", file.size(), " bytes, the header length alone takes ", length_bytes);
  }
  std::memcpy(&header_size, file.data(), length_bytes);
  const std::span<const std::byte> rest = file.subspan(length_bytes);
  if (header_size > longest_header) {
    fail("header length ", header_size, " is more than ", longest_header);
  }
  if (header_size > rest.size()) {
    fail("truncated: header length ", header_size, ", but only ", rest.size(), " bytes follow");
  }
  const std::string_view header(reinterpret_cast<const char*>(rest.data()), header_size);
  try {
    return parse_header(header, rest.subspan(header_size));
  } catch (const std::runtime_error& error) {
    fail("header: ", error.what());
  }
}

safetensors::safetensors(const std::filesystem::path& file) : path_(file.string()) {
  try {
    const std::span<const std::byte> bytes = map_file(path_.c_str());
    file_ = {bytes.data(), [size = bytes.size()](const std::byte* memory) {
               if (memory != nullptr) munmap(const_cast<std::byte*>(memory), size);
             }};
    tensors_ = parse_safetensors(bytes);
  } catch (const std::runtime_error& error) {
    fail(path_, ": ", error.what());
  }
}

std::span<const float> safetensors::floats(const std::string& name,
                                           const std::vector<std::uint64_t>& shape) {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) fail(path_, ": tensor \"", name, "\" is missing");
  const tensor& it = found->second;
  if (it.dtype != "F32" || it.shape != shape) {
    fail(path_, ": tensor \"", name, "\" is ", it.dtype, " of shape ", to_text(it.shape),
         ", expected F32 of shape ", to_text(shape));
  }
  const std::size_t count = it.data.size() / sizeof(float);
  if (reinterpret_cast<std::uintptr_t>(it.data.data()) % alignof(float) == 0) {
    return {reinterpret_cast<const float*>(it.data.data()), count};
  }
  auto copy = std::make_shared<std::vector<float>>(count);
  std::ranges::copy(it.data, std::as_writable_bytes(std::span(*copy)).begin());
  realigned_.push_back(copy);
  return *copy;
}

}  // namespace minilm
