// The safetensors reader: what it reads, and that no lie of a file gets past it.
#include "safetensors.hpp"

#include <random>
#include <span>

#include "files.hpp"
#include "support/catch.hpp"

using namespace minilm_test;

namespace {

// Parsed from a heap block of exactly its size, so that a sanitizer sees any byte read beyond it.
struct parsed {
  explicit parsed(const std::string& file) {
    for (const std::byte b : std::as_bytes(std::span(file))) bytes.push_back(b);
    bytes.shrink_to_fit();
    tensors = minilm::parse_safetensors(bytes);
  }
  std::vector<std::byte> bytes;
  minilm::tensor_map tensors;
};

std::string parse_error(const std::string& file) {
  return error_of([&] { parsed{file}; });
}

const std::string two_tensors =
    R"({"__metadata__":{"format":"pt","n":""},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
    R"("\u00e9\ud83d\ude00\n":{"data_offsets":[24,32],"shape":[],"dtype":"I64"}}  )";

// Whatever was accepted tiles the data: reading it all touches each byte of it once.
void check_tiles(const parsed& file) {
  std::uint64_t header_size = 0;
  std::memcpy(&header_size, file.bytes.data(), sizeof header_size);
  std::size_t bytes = 0;
  unsigned sum = 0;
  for (const auto& [name, tensor] : file.tensors) {
    bytes += tensor.data.size();
    for (const std::byte b : tensor.data) sum += std::to_integer<unsigned>(b);
  }
  CHECK(sum <= 255 * bytes);
  CHECK(bytes == file.bytes.size() - sizeof header_size - header_size);
}

void survives(const std::string& file) {
  try {
    check_tiles(parsed(file));
  } catch (const std::runtime_error& error) {
    CHECK_FALSE(std::string(error.what()).empty());
  }
}

struct lie {
  std::string header;
  std::size_t data;
  std::string message;
};

void check_refused(const std::vector<lie>& lies) {
  for (const lie& it : lies) {
    CAPTURE(it.header.substr(0, 200), it.data);
    const std::string error = parse_error(safetensors_file(it.header, std::string(it.data, 'x')));
    INFO("error: " << error);
    CHECK(error.starts_with("header: "));
    CHECK(error.find(it.message) != error.npos);
  }
}

// Headers of one tensor "a" or two tensors "a" and "b".
std::string tensor(const std::string& fields) { return R"({"a":{)" + fields + "}}"; }
std::string place(const std::string& shape, const std::string& offsets) {
  return tensor(R"("dtype":"F32","shape":)" + shape + R"(,"data_offsets":)" + offsets);
}
std::string pair(const std::string& first, const std::string& second) {
  return R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + first +
         R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + second + "}}";
}

const std::string deep(100'000, '[');

}  // namespace

TEST_CASE("safetensors: names, types, shapes and data are read") {
  const parsed file(safetensors_file(two_tensors, std::string(32, 'x')));
  REQUIRE(file.tensors.size() == 2);
  const minilm::tensor& a = file.tensors.at("a");
  CHECK(a.dtype == "F32");
  CHECK(a.shape == std::vector<std::uint64_t>{2, 3});
  CHECK(a.data.size() == 24);
  const minilm::tensor& b = file.tensors.at("\u00E9\U0001F600\n");
  CHECK(b.dtype == "I64");
  CHECK(b.shape.empty());
  CHECK(b.data.data() == a.data.data() + 24);
}

TEST_CASE("safetensors: empty tensors, no tensors, and any order of the data are legal") {
  CHECK(parsed(safetensors_file("{}", "")).tensors.empty());
  const parsed file(safetensors_file(R"({"late":{"dtype":"U8","shape":[2],"data_offsets":[1,3]},)"
                                     R"("none":{"dtype":"F64","shape":[7,0],"data_offsets":[1,1]},)"
                                     R"("early" : {"dtype":"BOOL", "shape":[1],)"
                                     "\t\r\n"
                                     R"("data_offsets":[ 0 , 1 ]}})",
                                     "abc"));
  CHECK(file.tensors.at("early").data[0] == std::byte{'a'});
  CHECK(file.tensors.at("late").data[1] == std::byte{'c'});
  CHECK(file.tensors.at("none").data.empty());
}

TEST_CASE("safetensors refuses JSON that is none") {
  check_refused({
      {"", 0, "does not start with '{'"},
      {" {}", 0, "does not start with '{'"},
      {"[]", 0, "does not start with '{'"},
      {"{", 0, "expected a string, found the end"},
      {"{}}", 0, "byte 2: expected nothing but spaces"},
      {"{}\n", 0, "expected nothing but spaces"},
      {"{,}", 0, "byte 1: expected a string, found \",\""},
      {R"({"a")", 0, "expected \":\", found the end"},
      {R"({"a"})", 0, "expected \":\", found \"}\""},
      {R"({"a":1})", 0, "expected \"{\", found \"1\""},
      {R"({"a":)" + deep, 0, "expected \"{\", found \"[\""},
      {R"({"a)", 0, "expected the end of a string"},
      {"{\"a\n\":1}", 0, "byte 3: a control character in a string"},
      {R"({"\x":1})", 0, "expected an escape"},
      {R"({"\)", 0, "expected an escape, found the end"},
      {R"({"\u12g4":1})", 0, "expected four hexadecimal digits"},
      {R"({"\u12)", 0, "expected four hexadecimal digits"},
      {R"({"\ud800x":1})", 0, "a surrogate without its partner"},
      {R"({"\ud800\u0041":1})", 0, "a surrogate without its partner"},
      {R"({"\udc00":1})", 0, "a surrogate without its partner"},
      {"{\"\xFF\":1}", 0, "invalid UTF-8 at byte 2"},
      {"{\"\xC0\xAF\":1}", 0, "invalid UTF-8 at byte 2"},
      {R"({"__metadata__":1})", 0, "expected \"{\", found \"1\""},
      {R"({"__metadata__":{"a":1}})", 0, "expected a string, found \"1\""},
      {R"({"__metadata__":{"a":"","a":""}})", 0, "the name \"a\" occurs twice"},
  });
}

TEST_CASE("safetensors refuses fields that are missing, repeated, unknown or of another type") {
  check_refused({
      {tensor(""), 0, "tensor \"a\": dtype is missing"},
      {tensor(R"("dtype":"U8")"), 0, "shape is missing"},
      {tensor(R"("dtype":"U8","shape":[0])"), 0, "data_offsets is missing"},
      {tensor(R"("dtype":"U8","dtype":"U8")"), 0, "the name \"dtype\" occurs twice"},
      {tensor(R"("colour":"red")"), 0, "unknown field \"colour\""},
      {tensor(R"("dtype":8)"), 0, "expected a string, found \"8\""},
      {tensor(R"("dtype":"F31","shape":[1],"data_offsets":[0,4])"), 4, "unknown dtype \"F31\""},
      {tensor(R"("dtype":"f32","shape":[1],"data_offsets":[0,4])"), 4, "unknown dtype \"f32\""},
      {R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":1})", 0, "\"a\" occurs twice"},
  });
}

TEST_CASE("safetensors refuses shapes that are no shapes or do not fit the data") {
  check_refused({
      {place("2", "[0,4]"), 4, "expected \"[\", found \"2\""},
      {place("[-1]", "[0,4]"), 4, "expected an unsigned integer, found \"-\""},
      {place("[1.0]", "[0,4]"), 4, "expected \"]\", found \".\""},
      {place("[1e0]", "[0,4]"), 4, "expected \"]\", found \"e\""},
      {place("[01]", "[0,4]"), 4, "expected an unsigned integer"},
      {place("[1,]", "[0,4]"), 4, "expected an unsigned integer, found \"]\""},
      {place("[" + deep, "[0,4]"), 4, "expected an unsigned integer, found \"[\""},
      {place("[18446744073709551616]", "[0,4]"), 4, "the number is too large"},
      {place("[4611686018427387904]", "[0,0]"), 0, "the shape [4611686018427387904] is too large"},
      {place("[4294967296,4294967296]", "[0,0]"), 0, "is too large"},
      {place("[2]", "[0,4]"), 4, "cover 4 bytes, F32 of shape [2] needs 8"},
      {place("[2,0]", "[0,4]"), 4, "cover 4 bytes, F32 of shape [2, 0] needs 0"},
      {place("[]", "[0,0]"), 0, "cover 0 bytes, F32 of shape [] needs 4"},
  });
}

TEST_CASE("safetensors refuses offsets that leave, overlap or miss the data") {
  check_refused({
      {place("[1]", "[]"), 4, "data_offsets has 0 numbers"},
      {place("[1]", "[0]"), 4, "data_offsets has 1 numbers"},
      {place("[1]", "[0,4,8]"), 4, "data_offsets has 3 numbers"},
      {place("[1]", "[-4,0]"), 4, "expected an unsigned integer, found \"-\""},
      {place("[1]", "[4,0]"), 4, "data_offsets end at 0, before they begin at 4"},
      {place("[1]", "[0,4]"), 3, "data_offsets end at 4, the file holds 3 bytes"},
      {place("[1]", "[18446744073709551612,18446744073709551615]"), 4, "the file holds 4 bytes"},
      {place("[1]", "[18446744073709551612,18446744073709551616]"), 4, "the number is too large"},
      {place("[1]", "[0,4]"), 5, "no tensor covers byte 4 of the data"},
      {place("[1]", "[4,8]"), 8, "no tensor covers byte 0 of the data"},
      {"{}", 1, "no tensor covers byte 0 of the data"},
      {pair("[0,4]", "[5,9]"), 9, "no tensor covers byte 4 of the data"},
      {pair("[0,4]", "[3,7]"), 7, "two tensors overlap at byte 3 of the data"},
      {pair("[0,4]", "[0,4]"), 4, "two tensors overlap at byte 0 of the data"},
  });
}

TEST_CASE("safetensors: the header length is not believed") {
  const auto error = [](std::uint64_t length) {
    return parse_error(safetensors_file(length, "{}", ""));
  };
  CHECK(error(2).empty());
  CHECK(error(3) == "truncated: header length 3, but only 2 bytes follow");
  CHECK(error(1) == "header: byte 1: expected a string, found the end");
  CHECK(error(100'000'001) == "header length 100000001 is more than 100000000");
  CHECK(error(~std::uint64_t{0}) == "header length 18446744073709551615 is more than 100000000");
  CHECK(parse_error("") == "truncated: 0 bytes, the header length alone takes 8");
}

TEST_CASE("safetensors: no truncation is accepted") {
  const std::string file = safetensors_file(two_tensors, std::string(32, 'x'));
  REQUIRE(parse_error(file).empty());
  for (std::size_t size = 0; size < file.size(); ++size) {
    CAPTURE(size);
    CHECK_FALSE(parse_error(file.substr(0, size)).empty());
  }
}

TEST_CASE("safetensors: flipped bits and random edits are refused or harmless") {
  const std::string file = safetensors_file(two_tensors, std::string(32, 'x'));
  for (std::size_t at = 0; at < file.size(); ++at) {
    for (unsigned bit = 0; bit < 8; ++bit) {
      std::string flipped = file;
      flipped[at] = static_cast<char>(static_cast<unsigned char>(flipped[at]) ^ 1U << bit);
      survives(flipped);
    }
  }
  std::mt19937 random(1);
  const auto below = [&](std::size_t n) { return std::size_t{random()} % n; };
  const std::string tokens = "{}[]\":,\\u0123456789-e. \x7F\xC3";
  for (int round = 0; round < 20'000; ++round) {
    std::string header = two_tensors;
    for (std::size_t edits = 1 + below(3); edits > 0; --edits) {
      header.replace(below(header.size()), below(3), below(3), tokens[below(tokens.size())]);
    }
    survives(safetensors_file(header, std::string(32, 'x')));
  }
}

TEST_CASE("safetensors: floats are read where they lie, or copied where no float may lie") {
  const temporary_folder folder;
  const std::vector<named_tensor> tensors = {{"a", {2}, {1, 2}}, {"b", {1, 3}, {3, 4, 5}}};
  bool copied = false;
  for (std::size_t padding = 0; padding < 4; ++padding) {
    minilm::safetensors file(folder.write("model", safetensors_file(tensors, padding)));
    const auto a = file.floats("a", {2});
    const auto b = file.floats("b", {1, 3});
    CHECK(std::vector<float>(a.begin(), a.end()) == std::vector<float>{1, 2});
    CHECK(std::vector<float>(b.begin(), b.end()) == std::vector<float>{3, 4, 5});
    CHECK(reinterpret_cast<std::uintptr_t>(b.data()) % alignof(float) == 0);
    const auto* const in_place = reinterpret_cast<const float*>(file.tensors().at("a").data.data());
    copied = copied || a.data() != in_place;
    const minilm::safetensors copy = file;
    file = minilm::safetensors(folder.write("other", safetensors_file("{}", "")));
    CHECK(b[2] == 5);  // the copy keeps what it points to alive
  }
  CHECK(copied);
}

TEST_CASE("safetensors: errors name the file, the tensor, what was found and what was expected") {
  const temporary_folder folder;
  const std::string contents = R"({"half":{"dtype":"F16","shape":[2],"data_offsets":[4,8]},)"
                               R"("one":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  const auto path = folder.write("model", safetensors_file(contents, "12345678"));
  minilm::safetensors file(path);
  CHECK(error_of([&] { file.floats("two", {1}); }) ==
        path.string() + ": tensor \"two\" is missing");
  CHECK(error_of([&] { file.floats("one", {1, 1}); }) ==
        path.string() + ": tensor \"one\" is F32 of shape [1], expected F32 of shape [1, 1]");
  CHECK(error_of([&] { file.floats("half", {2}); }) ==
        path.string() + ": tensor \"half\" is F16 of shape [2], expected F32 of shape [2]");

  const auto open_error = [](const std::filesystem::path& at) {
    return error_of([&] { minilm::safetensors{at}; });
  };
  const auto missing = folder.path() / "missing";
  CHECK(open_error(missing) == missing.string() + ": No such file or directory");
  CHECK(open_error(folder.path()) == folder.path().string() + ": not a regular file");
  const auto empty = folder.write("empty", "");
  CHECK(open_error(empty).starts_with(empty.string() + ": truncated: 0 bytes"));
}
