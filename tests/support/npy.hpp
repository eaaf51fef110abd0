// Reads and writes a NumPy array file (.npy 1.0, little-endian, C order), the form golden arrays
// are stored in. Anything else, a truncated file included, is a std::runtime_error that names the
// file.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace attn_test {

static_assert(std::endian::native == std::endian::little,
              "the bytes of a file are taken as they are");

// The NumPy name of a type. NumPy has no bfloat16: its bit patterns are stored as <u2.
template <class T>
constexpr std::string_view npy_dtype() {
  if constexpr (std::same_as<T, float>) return "<f4";
  if constexpr (std::same_as<T, double>) return "<f8";
  if constexpr (std::same_as<T, Eigen::half>) return "<f2";
  if constexpr (std::same_as<T, Eigen::bfloat16>) return "<u2";
  if constexpr (std::same_as<T, std::uint16_t>) return "<u2";
  if constexpr (std::same_as<T, std::int32_t>) return "<i4";
  if constexpr (std::same_as<T, std::int64_t>) return "<i8";
  if constexpr (std::same_as<T, bool>) return "|b1";
  return {};
}

struct npy_array {
  std::string dtype;                // as NumPy writes it: "<f4"
  std::vector<std::int64_t> shape;  // empty for a single number
  std::vector<std::byte> bytes;     // C order: the last index runs fastest

  std::int64_t size() const {
    std::int64_t count = 1;
    for (const std::int64_t extent : shape) count *= extent;
    return count;
  }

  template <class T>
  std::vector<T> as() const {
    static_assert(!npy_dtype<T>().empty(), "no .npy dtype is read as this type");
    if (dtype != npy_dtype<T>()) {
      throw std::runtime_error("array has dtype " + dtype + ", asked for " +
                               std::string(npy_dtype<T>()));
    }
    std::vector<T> values(static_cast<std::size_t>(size()));
    if constexpr (std::same_as<T, bool>) {  // std::vector<bool> has no bytes to copy to
      std::transform(bytes.begin(), bytes.end(), values.begin(),
                     [](std::byte b) { return b != std::byte{0}; });
    } else if (!bytes.empty()) {
      std::memcpy(static_cast<void*>(values.data()), bytes.data(), bytes.size());
    }
    return values;
  }
};

namespace npy_detail {

// The text after "'key':" in the header, which is a Python dict literal.
inline std::string_view after_key(std::string_view header, std::string_view key) {
  std::string quoted(1, '\'');
  quoted.append(key).append("':");
  const std::size_t found = header.find(quoted);
  if (found == std::string_view::npos) throw std::runtime_error("its header has no " + quoted);
  header.remove_prefix(found + quoted.size());
  header.remove_prefix(std::min(header.find_first_not_of(' '), header.size()));
  return header;
}

inline std::string parse_dtype(std::string_view header) {
  const std::string_view text = after_key(header, "descr");
  const std::size_t end = text.find('\'', 1);
  if (!text.starts_with('\'') || end == std::string_view::npos) {
    throw std::runtime_error("its header has no plain 'descr'");
  }
  return std::string(text.substr(1, end - 1));
}

inline std::vector<std::int64_t> parse_shape(std::string_view header) {
  std::string_view text = after_key(header, "shape");
  const std::size_t end = text.find(')');
  if (!text.starts_with('(') || end == std::string_view::npos) {
    throw std::runtime_error("its header has no 'shape' in parentheses");
  }
  std::vector<std::int64_t> shape;
  std::int64_t extent = -1;  // -1: no digit seen since the last comma
  for (const char c : text.substr(1, end - 1)) {
    if (c >= '0' && c <= '9') {
      extent = std::max<std::int64_t>(extent, 0) * 10 + (c - '0');
      if (extent > std::numeric_limits<std::int32_t>::max()) {
        throw std::runtime_error("its shape is out of reach");
      }
    } else if (c == ',' && extent >= 0) {
      shape.push_back(std::exchange(extent, -1));
    } else if (c != ' ') {
      throw std::runtime_error("its shape is not a tuple of numbers");
    }
  }
  if (extent >= 0) shape.push_back(extent);
  return shape;
}

inline std::size_t item_size(std::string_view dtype) {
  for (const auto& [name, size] : std::initializer_list<std::pair<std::string_view, std::size_t>>{
           {"<f4", 4}, {"<f8", 8}, {"<f2", 2}, {"<u2", 2}, {"<i4", 4}, {"<i8", 8}, {"|b1", 1}}) {
    if (dtype == name) return size;
  }
  throw std::runtime_error("its dtype " + std::string(dtype) + " is not one that is read here");
}

// The number of bytes an array takes, or `more_than` + 1 where it is greater than that.
inline std::size_t byte_size(const npy_array& array, std::size_t more_than) {
  std::size_t count = item_size(array.dtype);
  if (std::find(array.shape.begin(), array.shape.end(), 0) != array.shape.end()) return 0;
  for (const std::int64_t extent : array.shape) {
    count *= static_cast<std::size_t>(extent);  // both factors are below 2^32
    if (count > more_than || count > std::numeric_limits<std::uint32_t>::max()) {
      return more_than + 1;
    }
  }
  return count;
}

inline npy_array parse(const std::vector<char>& file) {
  constexpr std::size_t preamble = 10;  // magic, version, length of the header
  if (file.size() < preamble || std::string_view(file.data(), 6) != "\x93NUMPY") {
    throw std::runtime_error("it does not begin as an .npy file");
  }
  if (file[6] != 1 || file[7] != 0) throw std::runtime_error("it is not of version 1.0");
  const std::size_t header_size =
      static_cast<unsigned char>(file[8]) + std::size_t{256} * static_cast<unsigned char>(file[9]);
  if (file.size() - preamble < header_size) throw std::runtime_error("its header is truncated");

  const std::string_view header(file.data() + preamble, header_size);
  if (!after_key(header, "fortran_order").starts_with("False")) {
    throw std::runtime_error("it is not in C order");
  }
  npy_array array{parse_dtype(header), parse_shape(header), {}};
  const std::size_t found = file.size() - preamble - header_size;
  if (byte_size(array, found) != found) {
    throw std::runtime_error("its " + std::to_string(found) +
                             " bytes of data are not what its shape and dtype " + array.dtype +
                             " ask for");
  }
  array.bytes.resize(found);
  if (found > 0) std::memcpy(array.bytes.data(), file.data() + preamble + header_size, found);
  return array;
}

}  // namespace npy_detail

inline npy_array read_npy(const std::filesystem::path& path) {
  try {
    std::ifstream in(path, std::ios::binary);
    if (!in.is_open()) throw std::runtime_error("it does not open");
    const std::vector<char> file((std::istreambuf_iterator<char>(in)),
                                 std::istreambuf_iterator<char>());
    return npy_detail::parse(file);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error("cannot read " + path.string() + ": " + error.what());
  }
}

/// Writes elements in C order, as many as the shape asks for.
template <class T>
void write_npy(const std::filesystem::path& path, const std::vector<std::int64_t>& shape,
               const T* elements) {
  std::string header =
      "{'descr': '" + std::string(npy_dtype<T>()) + "', 'fortran_order': False, 'shape': (";
  std::size_t count = 1;
  for (const std::int64_t extent : shape) {
    header += std::to_string(extent) + ", ";
    count *= static_cast<std::size_t>(extent);
  }
  header += "), }";
  constexpr std::size_t preamble = 10,
                        line = 64;  // NumPy has the elements begin at such a multiple
  header.resize((preamble + header.size() + line) / line * line - preamble - 1, ' ');
  header += '\n';
  std::ofstream out(path, std::ios::binary);
  out.write("\x93NUMPY\x01\x00", 8);
  out.put(static_cast<char>(header.size() % 256)).put(static_cast<char>(header.size() / 256));
  out << header;
  out.write(reinterpret_cast<const char*>(elements),
            static_cast<std::streamsize>(count * sizeof(T)));
  out.close();
  if (!out) throw std::runtime_error("cannot write " + path.string());
}

}  // namespace attn_test
