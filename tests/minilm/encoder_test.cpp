// The layers one by one, and the whole encoder on a small made-up model, against plain loops.
#include "encoder.hpp"

#include <cmath>

#include "files.hpp"
#include "small_model.hpp"
#include "support/catch.hpp"

using namespace minilm_test;

namespace {

// Rounding of the small model in float: its numbers are of size 1 and its sums at most 20 long.
constexpr double tolerance = 1e-5;

class model_folder : public temporary_folder {
 public:
  explicit model_folder(const std::vector<named_tensor>& tensors = small_tensors(),
                        std::size_t padding = 0) {
    write("vocab.txt", small_vocabulary);
    write("model.safetensors", safetensors_file(tensors, padding));
  }
};

double difference(const Eigen::MatrixXf& found, const table& expected) {
  if (found.rows() != static_cast<Eigen::Index>(expected.size())) return HUGE_VAL;
  double largest = 0;
  for (Eigen::Index i = 0; i < found.rows(); ++i) {
    const auto& row = expected[static_cast<std::size_t>(i)];
    if (found.cols() != static_cast<Eigen::Index>(row.size())) return HUGE_VAL;
    for (Eigen::Index j = 0; j < found.cols(); ++j) {
      const double d =
          std::abs(static_cast<double>(found(i, j)) - row[static_cast<std::size_t>(j)]);
      if (!(d <= largest)) largest = std::isnan(d) ? HUGE_VAL : d;
    }
  }
  return largest;
}

std::string load_error(const std::vector<named_tensor>& tensors,
                       const minilm::architecture& shape = small) {
  const model_folder folder(tensors);
  return error_of([&] { minilm::encoder(folder.path(), shape); });
}

bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != text.npos;
}

}  // namespace

TEST_CASE("linear: x Wᵀ + b, the weight stored output by input") {
  const std::vector<float> weight = {1, 2, 3, 10, 20, 30}, bias = {0.5F, -0.5F};
  const minilm::linear layer{{weight.data(), 2, 3}, {bias.data(), 2}};
  minilm::activations x(3, 3);
  x << 1, 0, 0,  //
      0, 1, 1,   //
      0, 0, 0;
  minilm::activations expected(3, 2);
  expected << 1.5F, 9.5F,  //
      5.5F, 49.5F,         //
      0.5F, -0.5F;
  minilm::activations y;
  layer(x, y);
  CHECK(y == expected);
}

TEST_CASE(
    "linear: few rows and many, of any width, also no multiple of the steps it is summed in") {
  const int width = GENERATE(1, 63, 64, 65, 200, 500), rows = GENERATE(2, 16, 17);
  CAPTURE(width, rows);
  const minilm::activations weight = minilm::activations::Random(3, width),
                            x = minilm::activations::Random(rows, width);
  const Eigen::RowVectorXf bias = Eigen::RowVectorXf::Random(3);
  const minilm::linear layer{{weight.data(), 3, width}, {bias.data(), 3}};
  minilm::activations y;
  layer(x, y);
  for (int i = 0; i < rows; ++i) {
    for (int o = 0; o < 3; ++o) {
      double dot = static_cast<double>(bias[o]);
      for (int c = 0; c < width; ++c) {
        dot += static_cast<double>(x(i, c)) * static_cast<double>(weight(o, c));
      }
      CHECK(std::abs(static_cast<double>(y(i, o)) - dot) < tolerance);
    }
  }
}

TEST_CASE("layer norm: rows of mean 0 and biased variance 1, then weight and bias") {
  const std::vector<float> weight = {1, 1, 2, 1}, bias = {0, 0, 0, 7};
  const minilm::layer_norm norm{{weight.data(), 4}, {bias.data(), 4}};
  minilm::activations x(2, 4);
  x << 1, 3, 1, 3,  //
      5, 5, 5, 5;
  minilm::activations expected(2, 4);
  expected << -1, 1, -2, 8,  //
      0, 0, 0, 7;            // no variance, and no division by zero
  norm(x);
  CHECK((x - expected).cwiseAbs().maxCoeff() < 1e-6F);
  // eps is 1e-12: a variance of 1e-10 is still divided out, to within 1 %
  x << 0, 2e-5F, 0, 2e-5F,  //
      5, 5, 5, 5;
  norm(x);
  CHECK((x - expected).cwiseAbs().maxCoeff() < 0.02F);
}

TEST_CASE("gelu: the exact form") {
  minilm::activations x(1, 5);
  x << -10, -1, 0, 1, 10;
  minilm::activations expected(1, 5);
  expected << 0, -0.15865525F, 0, 0.84134475F, 10;  // x Φ(x); the tanh form gives 0.8411920
  minilm::gelu(x);
  CHECK((x - expected).cwiseAbs().maxCoeff() < 1e-6F);
}

TEST_CASE("encoder: hidden states, weights and embedding equal the definition") {
  const model_folder folder;
  const minilm::encoder encoder(folder.path(), small);
  CHECK(encoder.layers() == 2);
  CHECK(encoder.heads() == 3);
  for (const char* text : {"", "to", "To be, or not to be"}) {
    CAPTURE(text);
    const std::vector<int> ids = encoder.tokenize(text, 9).ids;
    small_reference reference(small_tensors());
    const std::vector<double> embedding = reference.run(ids);
    const minilm::trace trace = encoder.run(ids);
    REQUIRE(trace.hidden.size() == 3);
    for (std::size_t l = 0; l < 3; ++l) {
      CHECK(difference(trace.hidden[l], reference.hidden[l]) < tolerance);
    }
    REQUIRE(trace.weights.size() == 2);
    for (std::size_t l = 0; l < 2; ++l) {
      REQUIRE(trace.weights[l].size() == 3);
      for (std::size_t h = 0; h < 3; ++h) {
        CHECK(difference(trace.weights[l][h], reference.weights[l][h]) < tolerance);
      }
    }
    CHECK(difference(encoder.embed(text, 9).transpose(), {embedding}) < tolerance);
  }
}

TEST_CASE("encoder: texts together are as texts alone, and so are copies and misaligned files") {
  const std::vector<std::string> texts = {"to be", "", "not be, not"};
  const model_folder folder;
  const minilm::encoder encoder(folder.path(), small);
  const Eigen::MatrixXf embeddings = encoder.embed(texts);
  REQUIRE(embeddings.rows() == 3);
  for (std::size_t padding = 0; padding < 4; ++padding) {
    const model_folder shifted(small_tensors(), padding);
    const minilm::encoder other = minilm::encoder(shifted.path(), small);
    CHECK(other.embed(texts) == embeddings);
    for (int i = 0; i < 3; ++i) {  // but for the order in which Eigen's products sum
      const Eigen::VectorXf alone = other.embed(texts[static_cast<std::size_t>(i)]);
      CHECK((alone - embeddings.row(i).transpose()).cwiseAbs().maxCoeff() < 1e-6f);
    }
  }
  CHECK(encoder.embed(std::vector<std::string>{}).rows() == 0);
}

TEST_CASE("encoder: every tensor must be there, as float and in its shape") {
  const std::vector<named_tensor> good = small_tensors();
  REQUIRE(load_error(good).empty());
  for (std::size_t i = 0; i < good.size(); ++i) {
    const std::string& name = good[i].name;
    CAPTURE(name);
    std::vector<named_tensor> tensors = good;
    tensors.erase(tensors.begin() + static_cast<std::ptrdiff_t>(i));
    CHECK(contains(load_error(tensors), "tensor \"" + name + "\" is missing"));

    tensors = good;
    tensors[i].shape.insert(tensors[i].shape.begin(), 1);
    CHECK(contains(load_error(tensors), "tensor \"" + name + "\" is F32 of shape [1, "));

    tensors = good;
    tensors[i].dtype = "I32";
    CHECK(contains(load_error(tensors), "tensor \"" + name + "\" is I32 of shape ["));
  }
}

TEST_CASE("encoder: a folder that does not fit is refused") {
  const std::vector<named_tensor> good = small_tensors();
  minilm::architecture shape = small;
  shape.heads = 5;
  CHECK(load_error(good, shape) == "the width 12 does not divide into 5 heads");
  shape = small;
  shape.layers = 3;
  CHECK(contains(load_error(good, shape),
                 "\"encoder.layer.2.attention.self.query.weight\" is missing"));
  CHECK(
      contains(load_error(good, {}), "is F32 of shape [11, 12], expected F32 of shape [11, 384]"));

  const model_folder folder;
  folder.write("vocab.txt", small_vocabulary + "more\n");
  CHECK(contains(error_of([&] { minilm::encoder(folder.path(), small); }),
                 "is F32 of shape [11, 12], expected F32 of shape [12, 12]"));
  std::filesystem::remove(folder.path() / "vocab.txt");
  CHECK(contains(error_of([&] { minilm::encoder(folder.path(), small); }),
                 "vocab.txt: cannot be opened"));
}

TEST_CASE("encoder: ids and lengths that the model does not have are refused") {
  const model_folder folder;
  const minilm::encoder encoder(folder.path(), small);
  const auto run_error = [&](const std::vector<int>& ids) {
    return error_of([&] { encoder.run(ids); });
  };
  CHECK(run_error(std::vector<int>(9, 5)).empty());
  CHECK(run_error(std::vector<int>(10, 5)) == "the text has 10 tokens, the model takes 1 to 9");
  CHECK(run_error({}) == "the text has 0 tokens, the model takes 1 to 9");
  CHECK(run_error({2, 11, 3}) == "token 1 has id 11, the vocabulary has 11 pieces");
  CHECK(run_error({2, -1, 3}) == "token 1 has id -1, the vocabulary has 11 pieces");
  CHECK(error_of([&] { encoder.embed("to \xFF"); }) == "invalid UTF-8 at byte 3");
  const std::vector<std::string> texts = {"to", "to \xFF"};
  CHECK(error_of([&] { encoder.embed(texts); }) == "text 2: invalid UTF-8 at byte 3");
}
