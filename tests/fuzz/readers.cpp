// Files and texts of unknown origin: safetensors, arrays, vocabularies, cases, sentences. Whatever
// the bytes, a reader gives a value that holds together or a std::exception, and the reading ends.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <exception>
#include <new>

#include "attention_map/picture.hpp"
#include "attention_map/svg.hpp"
#include "attention_map/terminal.hpp"
#include "attention_map/text.hpp"
#include "attention_map/xml_error.hpp"
#include "conformance/case_file.hpp"
#include "fuzz/bytes.hpp"
#include "minilm/json_reader.hpp"
#include "minilm/safetensors.hpp"
#include "minilm/tokenizer.hpp"
#include "minilm/utf8.hpp"
#include "support/npy.hpp"

namespace attn_fuzz {
namespace {

// A file in memory, gone at the end of the scope.
class memory_file {
 public:
  explicit memory_file(std::string_view content) : number_(memfd_create("input", MFD_CLOEXEC)) {
    require(number_ >= 0, "no file in memory");
    while (!content.empty()) {
      const ssize_t written = write(number_, content.data(), content.size());
      require(written > 0, "a file in memory cannot be written");
      content.remove_prefix(static_cast<std::size_t>(written));
    }
  }
  memory_file(const memory_file&) = delete;
  memory_file& operator=(const memory_file&) = delete;
  ~memory_file() { close(number_); }

  [[nodiscard]] std::string path() const { return "/proc/self/fd/" + std::to_string(number_); }

 private:
  int number_;
};

// Runs the reader, which may refuse what it is given by an `Error`. Memory that cannot be had is no
// such error: it was asked for before the input was looked at.
template <class Error, class F>
void read_or_refuse(const F& read) {
  try {
    read();
  } catch (const std::bad_alloc&) {
    fail("a reader asks for more memory than there is");
  } catch (const std::length_error&) {
    fail("a reader asks for more memory than can be");
  } catch (const Error& error) {
    require(*error.what() != '\0', "an error without a message");
  }
}

void check_tensors(const minilm::tensor_map& tensors, const std::byte* first, std::size_t size) {
  std::size_t covered = 0;
  for (const auto& [name, tensor] : tensors) {
    covered += tensor.data.size();
    if (tensor.data.empty()) continue;
    const std::byte* const from = tensor.data.data();
    require(from >= first && from + tensor.data.size() <= first + size, "a tensor beyond its file");
  }
  require(covered <= size, "tensors of more bytes than their file");
}

void read_safetensors(bytes& in) {
  const std::string_view text = in.rest();
  const std::vector<char> copy(text.begin(), text.end());
  const auto whole = std::as_bytes(std::span(copy));
  read_or_refuse<std::runtime_error>([&] {
    const minilm::tensor_map tensors = minilm::parse_safetensors(whole);
    check_tensors(tensors, whole.data(), whole.size());
    const memory_file file(text);
    minilm::safetensors read(file.path());
    require(read.tensors().size() == tensors.size(), "the file has other tensors than the bytes");
    for (const auto& [name, tensor] : tensors) {
      if (tensor.dtype != "F32") continue;
      const std::span<const float> values = read.floats(name, tensor.shape);
      require(values.size() * sizeof(float) == tensor.data.size(), "a tensor has another size");
      require(
          values.empty() || std::memcmp(values.data(), tensor.data.data(), tensor.data.size()) == 0,
          "a tensor has other values");
    }
  });
}

// A header beside data of the size that the bytes say, so that mutations need not keep the two
// lengths right.
void read_safetensors_header(bytes& in) {
  const std::size_t data_size = in.byte();
  const std::string_view header = in.rest();
  std::string file(8, '\0');
  const std::uint64_t length = header.size();
  std::memcpy(file.data(), &length, sizeof length);
  file.append(header).append(data_size, 'x');
  bytes whole({reinterpret_cast<const std::uint8_t*>(file.data()), file.size()});
  read_safetensors(whole);
}

void read_array(std::string_view text) {
  const std::vector<char> file(text.begin(), text.end());
  read_or_refuse<std::runtime_error>([&] {
    const attn_test::npy_array array = attn_test::npy_detail::parse(file);
    require(array.bytes.size() <= file.size(), "an array of more bytes than its file");
    const auto check = [&]<class T>(T) {
      if (array.dtype != attn_test::npy_dtype<T>()) return;
      const std::vector<T> values = array.as<T>();
      require(static_cast<std::int64_t>(values.size()) == array.size(), "an array's size");
    };
    check(float{}), check(double{}), check(std::int32_t{}), check(std::int64_t{}), check(bool{});
    check(Eigen::half{}), check(Eigen::bfloat16{}), check(std::uint16_t{});
  });
}

// The preamble is made here: magic, version and the header's length.
void read_array_header(bytes& in) {
  const std::string_view header = in.text(), data = in.rest();
  std::string file("\x93NUMPY\x01\x00", 8);
  file.push_back(static_cast<char>(header.size() & 255));
  file.push_back(static_cast<char>(header.size() >> 8));
  read_array(file.append(header).append(data));
}

void encode(const minilm::tokenizer& tokenizer, bytes& in) {
  const std::size_t most = in.byte();
  const minilm::encoding found = tokenizer.encode(in.rest(), most);
  require(found.ids.size() <= most && found.ids.size() >= 2, "a number of tokens");
  require(found.pieces.size() == found.ids.size(), "a piece for each token");
  require(found.pieces.front() == "[CLS]" && found.pieces.back() == "[SEP]", "[CLS] and [SEP]");
  for (const int id : found.ids) {
    require(id >= 0 && static_cast<std::size_t>(id) < tokenizer.size(), "an id of the vocabulary");
  }
}

void read_vocabulary(bytes& in) {
  const memory_file file(in.text());
  read_or_refuse<std::runtime_error>([&] { encode(minilm::tokenizer(file.path()), in); });
}

void tokenize(bytes& in) {
  static const minilm::tokenizer tokenizer(
      memory_file("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nab\n##a\n##b\n##ab\nae\n##e\n,\n.\n"
                  "\xe1\x84\x80\n##\xe1\x85\xa1\n\xe4\xb8\x80\n##\xce\xb1\n")
          .path());
  read_or_refuse<std::runtime_error>([&] { encode(tokenizer, in); });
}

void check_labels(const std::vector<std::string>& labels, int width) {
  for (const std::string& label : labels) {
    const std::string shorter = attention_map::shortened(label, width);
    require(attention_map::display_width(shorter) <= width, "a text that was to be shorter");
    require(attention_map::display_width(attention_map::padded(shorter, width)) == width,
            "a text that was to be padded");
  }
}

// A text's words and a picture of them, on any screen.
void draw_text(bytes& in) {
  using namespace attention_map;
  const screen on{static_cast<int>(in.byte()), static_cast<colours>(in.between(0, 2))};
  const auto step = static_cast<float>(in.byte());
  read_or_refuse<std::runtime_error>([&] {
    picture shown{std::string(in.rest()), "a test", {}, {}};
    shown.tokens = words(shown.text);
    if (shown.tokens.empty() || shown.tokens.size() > 40) return;
    check_labels(labels(shown.tokens), std::max(1, on.width));
    const auto count = static_cast<Eigen::Index>(shown.tokens.size());
    shown.weights = Eigen::MatrixXf::NullaryExpr(count, count, [&](Eigen::Index i, Eigen::Index j) {
      const float whole = static_cast<float>(i * count + j) * step / 255;
      return whole - std::floor(whole);
    });
    if (step == 255) shown.weights(0, 0) = std::numeric_limits<float>::quiet_NaN();
    require(!draw(shown, on).empty(), "nothing is drawn");
    const std::string error = attention_map_test::xml_error(svg(shown));
    require(error.empty(), "an SVG file that is not well-formed: " + error);
  });
}

void read_case(bytes& in) {
  const memory_file file(in.rest());
  read_or_refuse<std::exception>([&] {
    const attn_test::case_file read(file.path());
    static_cast<void>(read.names("inputs"));
    static_cast<void>(read.attribute("scale", 1.0));
    static_cast<void>(read.attribute("axis", 1));
    static_cast<void>(read.attribute<double>("cap"));
    read.allow_only({"axis", "cap", "scale"}, {"x"}, {"y"});
  });
}

void read_json_string(bytes& in) {
  const std::string_view text = in.rest();
  read_or_refuse<std::runtime_error>([&] {
    const std::string value = minilm::json_reader(text).string();
    for (std::size_t at = 0; at < value.size();) minilm::next_code_point(value, at);
  });
}

void read_anything(bytes& in) {
  switch (in.between(0, 8)) {
    case 0:
      return read_safetensors(in);
    case 1:
      return read_safetensors_header(in);
    case 2:
      return read_array(in.rest());
    case 3:
      return read_array_header(in);
    case 4:
      return read_vocabulary(in);
    case 5:
      return tokenize(in);
    case 6:
      return draw_text(in);
    case 7:
      return read_case(in);
    default:
      return read_json_string(in);
  }
}

}  // namespace
}  // namespace attn_fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data,  // NOLINT(*-naming): the fuzzer's
                                      std::size_t size) {
  attn_fuzz::bytes in({data, size});
  attn_fuzz::read_anything(in);
  return 0;
}
