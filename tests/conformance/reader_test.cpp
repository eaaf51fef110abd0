// The readers of the golden files must not take a broken file for a good one.

#include <cstdint>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "conformance/case_file.hpp"
#include "conformance/tensor.hpp"
#include "support/catch.hpp"
#include "support/npy.hpp"

namespace {

using attn_test::read_npy;

// A folder of this test's own, gone with the object.
class temporary_folder {
 public:
  temporary_folder() { std::filesystem::create_directories(path_); }
  ~temporary_folder() { std::filesystem::remove_all(path_); }
  temporary_folder(const temporary_folder&) = delete;
  temporary_folder& operator=(const temporary_folder&) = delete;

  std::filesystem::path file(const std::string& name, const std::string& content) const {
    std::ofstream(path_ / name, std::ios::binary) << content;
    return path_ / name;
  }

 private:
  std::filesystem::path path_ = std::filesystem::temp_directory_path() / "attn_reader_test";
};

std::string npy(const std::string& descr, const std::string& shape, const std::string& data,
                const std::string& fortran_order = "False") {
  const std::string header = "{'descr': '" + descr + "', 'fortran_order': " + fortran_order +
                             ", 'shape': " + shape + ", }\n";
  const std::string magic("\x93NUMPY\x01\x00", 8);
  return magic + static_cast<char>(header.size()) + '\0' + header + data;
}

// Whether f fails with a message that holds `part`.
bool fails_with(const std::string& part, const std::function<void()>& f) {
  try {
    f();
  } catch (const std::exception& error) {
    UNSCOPED_INFO(error.what());
    return std::string(error.what()).find(part) != std::string::npos;
  }
  return false;
}

}  // namespace

TEST_CASE("an .npy file is read as NumPy wrote it") {
  const temporary_folder folder;
  const auto longs = read_npy(folder.file("a", npy("<i8", "(2, 1)", std::string(16, '\1'))));
  CHECK(longs.shape == std::vector<std::int64_t>{2, 1});
  CHECK(longs.as<std::int64_t>() == std::vector<std::int64_t>(2, 0x0101010101010101));
  CHECK(fails_with("dtype <i8, asked for <f4", [&] { longs.as<float>(); }));

  const auto scalar = read_npy(folder.file("b", npy("|b1", "()", "\1")));
  CHECK(scalar.shape.empty());
  CHECK(scalar.as<bool>() == std::vector<bool>{true});
  CHECK(read_npy(folder.file("c", npy("<f4", "(0, 3)", ""))).as<float>().empty());
  const auto bits = read_npy(folder.file("d", npy("<u2", "(1,)", std::string("\x80\x3f"))));
  CHECK(static_cast<float>(bits.as<Eigen::bfloat16>()[0]) == 1.0F);
}

TEST_CASE("a broken .npy file is refused") {
  const temporary_folder folder;
  const auto refused = [&](const std::string& part, const std::string& content) {
    return fails_with(part, [&] { read_npy(folder.file("x", content)); });
  };
  const std::string good = npy("<f4", "(2,)", "12345678");
  CHECK(refused("does not begin as an .npy file", ""));
  CHECK(refused("does not begin as an .npy file", "PK" + good));
  CHECK(refused("header is truncated", good.substr(0, 30)));
  CHECK(refused("7 bytes of data", good.substr(0, good.size() - 1)));
  CHECK(refused("9 bytes of data", good + "9"));
  CHECK(refused("not in C order", npy("<f4", "(2,)", "12345678", "True")));
  CHECK(refused("dtype >f4", npy(">f4", "(2,)", "12345678")));
  CHECK(refused("not a tuple of numbers", npy("<f4", "(-2,)", "12345678")));
  CHECK(refused("out of reach", npy("<f4", "(99999999999999999999,)", "")));
  CHECK(refused("8 bytes of data", npy("<f4", "(2147483647, 2147483647, 4)", "12345678")));
  CHECK(fails_with("does not open", [] { read_npy("no such file"); }));
}

TEST_CASE("a case that asks for something unheard of is refused") {
  const temporary_folder folder;
  const attn_test::case_file from(folder.file("case.txt",
                                              "attr.axis = 1\n"
                                              "inputs = x - y\n"
                                              "outputs = z\n"));
  CHECK_NOTHROW(from.allow_only({"axis"}, {"x", "y"}, {"z"}));
  CHECK(fails_with("attribute 'axis'", [&] { from.allow_only({}, {"x", "y"}, {"z"}); }));
  CHECK(fails_with("input 'y'", [&] { from.allow_only({"axis"}, {"x"}, {"z"}); }));
  CHECK(fails_with("output 'z'", [&] { from.allow_only({"axis"}, {"x", "y"}, {}); }));
  CHECK(fails_with("no 'rtol'", [&] { from.number("rtol"); }));
  CHECK(fails_with("twice", [&] { attn_test::case_file(folder.file("y", "a = 1\na = 1\n")); }));
}
