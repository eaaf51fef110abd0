// The trained model against golden data of the reference implementation (transformers, in double):
// token ids, attention weights, hidden states, embeddings and cosines, and the program's output.
#include <cmath>
#include <filesystem>
#include <iostream>
#include <map>
#include <sstream>

#include "encoder.hpp"
#include "files.hpp"
#include "program.hpp"
#include "support/catch.hpp"
#include "support/npy.hpp"
#include "utf8.hpp"

using namespace minilm_test;
namespace fs = std::filesystem;

namespace {

// Largest absolute differences allowed to the reference in double. Correct implementations in float
// stay below a quarter of them; a layer norm with eps 1e-6 instead of 1e-12 does not.
namespace tolerance {
constexpr double embedding = 1e-6, cosine = 1e-6, weights = 2e-5, hidden = 5e-5;
}  // namespace tolerance

const fs::path golden = fs::path(ATTN_MINILM_DIR) / "golden";
const fs::path model = ATTN_MINILM_MODEL;

bool skipped() {
  const bool missing = std::string_view(ATTN_MINILM_DIR).empty() || model.empty();
  if (missing) {
    std::cout << "skipped: set ATTN_MINILM_DIR and ATTN_MINILM_MODEL to run the golden cases\n";
  }
  return missing;
}

const minilm::encoder& encoder() {
  static const minilm::encoder loaded(model);
  return loaded;
}

// The lines "key = value" of a case.txt; # begins a comment.
std::map<std::string, std::string> read_case(const fs::path& folder) {
  std::map<std::string, std::string> values;
  std::istringstream lines(read_text(folder / "case.txt"));
  for (std::string line; std::getline(lines, line);) {
    const std::size_t split = line.find(" =");
    if (line.starts_with('#') || split == line.npos) continue;
    values[line.substr(0, split)] = line.substr(std::min(split + 3, line.size()));
  }
  return values;
}

template <class T>
std::vector<T> read_words(const std::string& text) {
  std::istringstream words(text);
  std::vector<T> result;
  for (T word; words >> word;) result.push_back(word);
  return result;
}

// An array of any of the number types here, with at(i, j, ...) from the left; what follows is 0.
class array {
 public:
  explicit array(const fs::path& file) {
    const attn_test::npy_array stored = attn_test::read_npy(file);
    shape_ = stored.shape;
    if (stored.dtype == "<f8") values_ = stored.as<double>();
    if (stored.dtype == "<f4") assign(stored.as<float>());
    if (stored.dtype == "<i4") assign(stored.as<std::int32_t>());
    REQUIRE(static_cast<std::int64_t>(values_.size()) == stored.size());
  }

  const std::vector<std::int64_t>& shape() const { return shape_; }

  double at(std::initializer_list<Eigen::Index> place) const {
    std::size_t flat = 0, axis = 0;
    for (const std::int64_t extent : shape_) {
      const Eigen::Index i = axis < place.size() ? place.begin()[axis] : 0;
      flat = flat * static_cast<std::size_t>(extent) + static_cast<std::size_t>(i);
      ++axis;
    }
    return values_.at(flat);
  }

 private:
  template <class T>
  void assign(const std::vector<T>& values) {
    values_.assign(values.begin(), values.end());
  }

  std::vector<std::int64_t> shape_;
  std::vector<double> values_;
};

// The largest difference seen of one quantity; NaN is larger than all.
class largest_error {
 public:
  explicit largest_error(const char* name) : name_(name) {}
  ~largest_error() {
    std::cout << "largest error of " << count_ << " " << name_ << ": " << value_ << "\n";
  }
  largest_error(const largest_error&) = delete;
  largest_error& operator=(const largest_error&) = delete;

  void add(double found, double expected) {
    const double d = std::abs(found - expected);
    value_ = std::isnan(d) ? HUGE_VAL : std::max(value_, d);
    ++count_;
  }
  double value() const { return value_; }
  long count() const { return count_; }

 private:
  const char* name_;
  double value_ = 0;
  long count_ = 0;
};

struct errors {
  largest_error embedding{"embedding values"}, weights{"attention weights"},
      hidden{"hidden values"};
};

// One text of a case: number b of a batch, or b = -1 where the arrays have no batch axis.
struct golden_text {
  fs::path folder;
  int b;
  std::string text;
  std::vector<int> ids;
  std::size_t max_tokens;

  double value(const array& from, Eigen::Index i) const {
    return b < 0 ? from.at({i}) : from.at({b, i});
  }
  double weight(const array& from, Eigen::Index l, Eigen::Index h, Eigen::Index i,
                Eigen::Index j) const {
    return b < 0 ? from.at({l, h, i, j}) : from.at({b, l, h, i, j});
  }
};

void compare_ids(const golden_text& expected) {
  const array ids(expected.folder / "input_ids.npy");
  const std::vector<int> found = encoder().tokenize(expected.text, expected.max_tokens).ids;
  CHECK(found == expected.ids);
  const auto length = static_cast<Eigen::Index>(ids.shape().back());
  for (auto i = static_cast<Eigen::Index>(found.size()); i < length; ++i) {
    CHECK(expected.value(ids, i) == 0);
  }
}

void compare_trace(const golden_text& expected, errors& seen) {
  const minilm::trace trace = encoder().run(expected.ids);
  const auto n = static_cast<Eigen::Index>(expected.ids.size());
  for (const char* name : {"attention_probs.npy", "attention_probs_fp32.npy"}) {
    if (!fs::exists(expected.folder / name)) continue;
    const array weights(expected.folder / name);
    for (int l = 0; l < encoder().layers(); ++l) {
      for (int h = 0; h < encoder().heads(); ++h) {
        const Eigen::MatrixXf& found =
            trace.weights[static_cast<std::size_t>(l)][static_cast<std::size_t>(h)];
        REQUIRE((found.rows() == n && found.cols() == n));
        for (Eigen::Index i = 0; i < n; ++i) {
          for (Eigen::Index j = 0; j < n; ++j) {
            seen.weights.add(static_cast<double>(found(i, j)),
                             expected.weight(weights, l, h, i, j));
          }
        }
      }
    }
  }
  if (const fs::path file = expected.folder / "hidden_all.npy"; fs::exists(file)) {
    const array hidden(file);
    REQUIRE(static_cast<std::int64_t>(trace.hidden.size()) == hidden.shape()[0]);
    for (std::size_t l = 0; l < trace.hidden.size(); ++l) {
      for (Eigen::Index i = 0; i < n; ++i) {
        for (Eigen::Index c = 0; c < trace.hidden[l].cols(); ++c) {
          seen.hidden.add(static_cast<double>(trace.hidden[l](i, c)),
                          hidden.at({static_cast<Eigen::Index>(l), i, c}));
        }
      }
    }
  }
}

void compare(const golden_text& expected, errors& seen) {
  compare_ids(expected);
  compare_trace(expected, seen);
  const Eigen::VectorXf embedding = encoder().embed(expected.text, expected.max_tokens);
  const array stored(expected.folder / "embedding.npy");
  REQUIRE(embedding.size() == stored.shape().back());
  for (Eigen::Index i = 0; i < embedding.size(); ++i) {
    seen.embedding.add(static_cast<double>(embedding[i]), expected.value(stored, i));
  }
}

// The texts of a case, with the ids they must get.
std::vector<golden_text> read_texts(const fs::path& folder) {
  const auto about = read_case(folder);
  const bool batch = about.at("kind") == "batch";
  const auto lengths = read_words<int>(about.at("n_tokens"));
  const array ids(folder / "input_ids.npy");
  std::vector<golden_text> texts;
  for (std::size_t b = 0; b < lengths.size(); ++b) {
    std::string key = "text.";
    if (batch) key += std::to_string(b) + ".";
    golden_text one{folder,
                    batch ? static_cast<int>(b) : -1,
                    read_text(folder / about.at(key + "file")),
                    {},
                    std::stoul(about.at("max_tokens"))};
    for (int i = 0; i < lengths[b]; ++i) one.ids.push_back(static_cast<int>(one.value(ids, i)));
    texts.push_back(one);
  }
  return texts;
}

// The texts of tokenizer_vectors.txt: \\ is a backslash, \u{HEX} a code point.
std::string unescaped(std::string_view text) {
  std::string result;
  while (!text.empty()) {
    if (text.starts_with("\\u{")) {
      const std::size_t end = text.find('}');
      const std::string digits(text.substr(3, end - 3));
      minilm::append_utf8(result, static_cast<char32_t>(std::stoul(digits, nullptr, 16)));
      text.remove_prefix(end + 1);
    } else {
      text.remove_prefix(text.starts_with("\\\\") ? 1 : 0);
      result.push_back(text.front());
      text.remove_prefix(1);
    }
  }
  return result;
}

}  // namespace

TEST_CASE("golden: token ids of the tokenizer vectors") {
  if (skipped()) return;
  std::istringstream lines(read_text(golden / "tokenizer_vectors.txt"));
  int count = 0;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with('#')) continue;
    CAPTURE(line);
    const std::size_t tab = line.find('\t');
    REQUIRE(tab != line.npos);
    const std::string text = unescaped(std::string_view(line).substr(tab + 1));
    CHECK(encoder().tokenize(text, 100'000).ids == read_words<int>(line.substr(0, tab)));
    ++count;
  }
  CHECK(count >= 97);
}

TEST_CASE("golden: ids, attention, hidden states and embeddings of every case") {
  if (skipped()) return;
  errors seen;
  for (const auto& entry : fs::directory_iterator(golden)) {
    if (!fs::exists(entry.path() / "input_ids.npy")) continue;
    CAPTURE(entry.path().string());
    for (const golden_text& text : read_texts(entry.path())) {
      CAPTURE(text.b);
      compare(text, seen);
    }
    CHECK(seen.embedding.value() <= tolerance::embedding);
    CHECK(seen.weights.value() <= tolerance::weights);
    CHECK(seen.hidden.value() <= tolerance::hidden);
  }
  CHECK(seen.embedding.count() >= 12L * 384);
  CHECK(seen.weights.count() > 0);
  CHECK(seen.hidden.count() > 0);
}

TEST_CASE("golden: cosines of the texts with each other") {
  if (skipped()) return;
  for (const auto& entry : fs::directory_iterator(golden)) {
    if (!fs::exists(entry.path() / "cosine.npy")) continue;
    CAPTURE(entry.path().string());
    std::vector<std::string> texts;
    for (const std::string& row : read_words<std::string>(read_case(entry.path()).at("rows"))) {
      texts.push_back(read_texts(golden / row).at(0).text);
    }
    const Eigen::MatrixXd embeddings = encoder().embed(texts).cast<double>();
    const Eigen::MatrixXd cosine = embeddings * embeddings.transpose();
    const array stored(entry.path() / "cosine.npy");
    REQUIRE((stored.shape() == std::vector<std::int64_t>{cosine.rows(), cosine.cols()}));
    largest_error error("cosines");
    for (Eigen::Index i = 0; i < cosine.rows(); ++i) {
      for (Eigen::Index j = 0; j < cosine.cols(); ++j) {
        error.add(cosine(i, j), stored.at({i, j}));
      }
    }
    CHECK(error.count() > 0);
    CHECK(error.value() <= tolerance::cosine);
  }
}

TEST_CASE("golden: minilm embed prints the embeddings, a line a text") {
  if (skipped()) return;
  const fs::path bill = golden / "01_bill", rates = golden / "04_rates";
  const outcome result = run_program({"embed", read_text(bill / "text.utf8"),
                                      read_text(rates / "text.utf8"), "--model", model.string()});
  REQUIRE(result.exit_code == 0);
  CHECK(result.error.empty());
  std::istringstream lines(result.out);
  largest_error error("printed values");
  for (const fs::path& folder : {bill, rates}) {
    std::string line;
    REQUIRE(std::getline(lines, line));
    const std::vector<double> values = read_words<double>(line);
    const array stored(folder / "embedding.npy");
    REQUIRE(static_cast<std::int64_t>(values.size()) == stored.shape()[0]);
    for (std::size_t i = 0; i < values.size(); ++i) {
      error.add(values[i], stored.at({static_cast<Eigen::Index>(i)}));
    }
  }
  CHECK(error.value() <= tolerance::embedding);
}

TEST_CASE("golden: minilm similar prints the cosines beside the texts") {
  if (skipped()) return;
  const outcome result =
      run_program({"similar", "--model", model.string(), "A man is playing a guitar on the street.",
                   "Someone is strumming an acoustic guitar outdoors.",
                   "The central bank raised interest rates by a quarter of a percentage point."});
  CHECK(result.exit_code == 0);
  CHECK(
      result.out.starts_with(" 1.000  0.641 -0.094   A man is playing a guitar on the street.\n"
                             " 0.641  1.000 "));
  CHECK(result.out.find("   The central bank raised interest rates b...\n") != result.out.npos);
}

TEST_CASE("golden: minilm refuses a text that is not UTF-8") {
  if (skipped()) return;
  const outcome result = run_program({"embed", "--model", model.string(), "tea", "caf\xE9"});
  CHECK(result.exit_code == 1);
  CHECK(result.out.empty());
  CHECK(result.error == "minilm: text 2: invalid UTF-8 at byte 3\n");
}
