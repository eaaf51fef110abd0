// Bad input: a message that names the argument, what was found and what was expected, before
// anything is computed or written.
#include <attn/attention.hpp>
#include <string>

#include "support/catch.hpp"
#include "support/refusal.hpp"

namespace {

using attn_test::missing;
using Eigen::MatrixXf;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

// A call of 3 queries and 5 keys of width 4 with values of width 2, whose parts a test replaces.
struct call {
  MatrixXf q = MatrixXf::Ones(3, 4), k = MatrixXf::Ones(5, 4), v = MatrixXf::Ones(5, 2);

  template <class M>
  auto operator()(const M& mask, const attn::options& options) const {
    return attn::scaled_dot_product_attention(q, k, v, mask, options);
  }
  template <class M>
  std::string missing(const M& mask, const std::vector<std::string>& words,
                      const attn::options& options = {.alignment = attn::top_left}) const {
    return attn_test::missing([&] { (*this)(mask, options); }, words);
  }
  template <class F>
  std::string missing_with(const F& score_mod, const std::vector<std::string>& words,
                           const attn::options& options = {.alignment = attn::top_left}) const {
    return attn_test::missing(
        [&] { attn::scaled_dot_product_attention(q, k, v, attn::none(), score_mod, options); },
        words);
  }
};

TEST_CASE("shapes that don't fit") {
  CHECK(call{.k = MatrixXf(5, 7)}.missing(attn::none(), {"key", "7", "query", "4"}) == "");
  CHECK(call{.v = MatrixXf(6, 2)}.missing(attn::none(), {"value", "6", "key", "5"}) == "");
  CHECK(call{.v = MatrixXf(0, 2)}.missing(attn::none(), {"value", "0", "key", "5"}) == "");
  CHECK(call{.k = MatrixXf(5, 0)}.missing(attn::none(), {"key", "0", "query", "4"}) == "");
  CHECK(missing(
            [] {
              attn::scaled_dot_product_attention(MatrixXf(3, 4), MatrixXf(5, 7), MatrixXf(5, 2));
            },
            {"key", "7", "query", "4"}) == "");
}

TEST_CASE("masks of the wrong shape") {
  using booleans = Eigen::Matrix<bool, Eigen::Dynamic, Eigen::Dynamic>;
  const auto refused = [](attn::index rows, attn::index cols,
                          const std::vector<std::string>& words) {
    const booleans boolean = booleans::Constant(rows, cols, true);
    const MatrixXf bias = MatrixXf::Zero(rows, cols);
    CHECK(call().missing(boolean, words) == "");
    CHECK(call().missing(bias, words) == "");
    // Nor inside a composition.
    CHECK(call().missing(attn::causal() & boolean, words) == "");
    CHECK(call().missing(boolean & attn::causal(), words) == "");
    CHECK(call().missing(attn::causal() & bias, words) == "");
    CHECK(call().missing(attn::causal() | boolean, words) == "");
    CHECK(call().missing(~(~attn::as_mask(boolean) & attn::none()), words) == "");
  };
  refused(3, 4, {"mask", "4", "5"});
  refused(3, 6, {"mask", "6", "5"});
  refused(2, 5, {"mask", "2", "3"});
  refused(4, 5, {"mask", "4", "3"});
  refused(5, 3, {"mask"});
  refused(3, 1, {"mask", "1", "5"});
  refused(0, 5, {"mask", "0", "3"});
  refused(3, 0, {"mask", "0", "5"});
  CHECK(call()(booleans::Constant(3, 5, true), {}).rows() == 3);
  CHECK(call()(booleans::Constant(1, 5, true), {}).rows() == 3);
}

TEST_CASE("an alignment that is missing, where it matters") {
  const std::vector<std::string> choices{"3", "5", "attn::top_left", "attn::bottom_right",
                                         "attn::offset"};
  const call c;
  CHECK(c.missing(attn::causal(), choices, {}) == "");
  CHECK(c.missing(attn::sliding_window(1), choices, {}) == "");
  CHECK(c.missing(attn::prefix(2), choices, {}) == "");
  CHECK(c.missing(attn::documents(std::vector<int>{1, 1, 1}), choices, {}) == "");
  CHECK(c.missing([](attn::index, attn::index) { return true; }, choices, {}) == "");
  CHECK(c.missing([](attn::position) { return true; }, choices, {}) == "");
  CHECK(c.missing(attn::predicate([](attn::position) { return true; }), choices, {}) == "");
  CHECK(c.missing(attn::none() & attn::causal(), choices, {}) == "");
  CHECK(c.missing(~attn::causal() | attn::none(), choices, {}) == "");
  CHECK(c.missing_with(attn::alibi(1), choices, {}) == "");
  CHECK(c.missing_with([](float s, attn::position) { return s; }, choices, {}) == "");
  CHECK(c.missing_with(attn::compose(attn::softcap(1), attn::alibi(1)), choices, {}) == "");
  const Eigen::VectorXf table = Eigen::VectorXf::Zero(21);
  CHECK(c.missing_with(attn::relative_bias(table), choices, {}) == "");

  // Nothing positional, or as many queries as keys: none is needed.
  CHECK(c(attn::none(), {}).rows() == 3);
  CHECK(c(attn::key_padding(4), {}).rows() == 3);
  CHECK(c(Eigen::Matrix<bool, 3, 5>::Constant(true), {}).rows() == 3);
  CHECK(c(MatrixXf::Zero(3, 5), {}).rows() == 3);
  CHECK(attn::scaled_dot_product_attention(c.q, c.k, c.v, attn::none(), attn::softcap(1)).rows() ==
        3);
  CHECK(attn::scaled_dot_product_attention(c.q, c.k, c.v, attn::none(), [](float s) {
          return s;
        }).rows() == 3);
  CHECK(call{.q = MatrixXf::Ones(5, 4)}(attn::causal(), {}).rows() == 5);
}

TEST_CASE("an offset beyond 32-bit positions") {
  const attn::index far = std::numeric_limits<attn::index>::max();
  CHECK(call().missing(attn::causal(), {"offset", std::to_string(far)},
                       {.alignment = attn::offset(far)}) == "");
  CHECK(call().missing(attn::causal(), {"offset", std::to_string(-far)},
                       {.alignment = attn::offset(-far)}) == "");
  const attn::index most = std::numeric_limits<std::int32_t>::max();
  for (const attn::index offset : {most, most - 2, -most, -most - 1, -most + 4}) {
    CHECK(call().missing(attn::causal(), {"offset"}, {.alignment = attn::offset(offset)}) == "");
  }
  CHECK(call()(attn::causal(), {.alignment = attn::offset(most - 3)}).isOnes());
  CHECK(call()(attn::causal(), {.alignment = attn::offset(-most + 5)}).isZero());
}

// Maps whose rows are one row in memory, so that any number of them costs nothing.
TEST_CASE("as many keys as 32 bits count, and one more") {
  const float zero = 0;
  using rows = Eigen::Map<const MatrixXf, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>>;
  const auto of = [&](attn::index n) { return rows(&zero, n, 1, {0, 0}); };
  const attn::index most = std::numeric_limits<std::int32_t>::max();
  const auto attend = [&](attn::index queries, attn::index keys) {
    return attn::scaled_dot_product_attention(of(queries), of(keys), of(keys),
                                              attn::key_padding(0));
  };
  CHECK(attend(1, most - 1)(0, 0) == 0);
  CHECK(missing([&] { attend(1, most); }, {"key has 2147483647 rows"}) == "");
  CHECK(missing([&] { attend(most, 1); }, {"query has 2147483647 rows"}) == "");
}

TEST_CASE("a scale or a sink that is not finite") {
  CHECK(call().missing(attn::none(), {"scale", "nan"}, {.scale = nan}) == "");
  CHECK(call().missing(attn::none(), {"scale", "inf"}, {.scale = infinity}) == "");
  CHECK(call().missing(attn::none(), {"scale", "-inf"}, {.scale = -infinity}) == "");
  CHECK(call().missing(attn::none(), {"sink", "nan"}, {.sink = nan}) == "");
  CHECK(call().missing(attn::none(), {"sink", "inf"}, {.sink = infinity}) == "");
  CHECK(call().missing(attn::none(), {"sink", "1e+39"}, {.sink = 1e39}) == "");  // not of a float
}

TEST_CASE("masks and score changes that mean nothing") {
  CHECK(missing([] { attn::sliding_window(-2); }, {"sliding_window", "-2"}) == "");
  CHECK(missing([] { attn::sliding_window(-2, 1); }, {"sliding_window", "left", "-2"}) == "");
  CHECK(missing([] { attn::sliding_window(1, -7); }, {"sliding_window", "right", "-7"}) == "");
  CHECK(missing([] { attn::key_padding(-1); }, {"key_padding", "-1"}) == "");
  CHECK(missing([] { attn::prefix(-1); }, {"prefix", "-1"}) == "");
  CHECK(call().missing(attn::key_padding(6), {"key_padding", "6", "key", "5"}) == "");
  CHECK(call().missing(attn::none() & attn::key_padding(6), {"key_padding", "6", "5"}) == "");
  for (const double cap : {0.0, -1.0, infinity, nan}) {
    CHECK(missing([&] { attn::softcap{cap}; }, {"softcap"}) == "");
  }
  CHECK(missing([] { attn::alibi_slopes(0); }, {"alibi_slopes", "0"}) == "");
  CHECK(call().missing_with(attn::alibi(nan), {"alibi", "nan"}) == "");
  CHECK(call().missing_with(attn::alibi(1e39), {"alibi", "1e+39", "float"}) == "");
  CHECK(call().missing_with(attn::alibi(std::vector<double>{1, 2}), {"alibi", "2", "1"}) == "");
  CHECK(call().missing_with(attn::alibi(std::vector<double>{}), {"alibi", "0", "1"}) == "");
  CHECK(missing([] { attn::std_threads(0); }, {"std_threads", "0"}) == "");
}

TEST_CASE("a relative bias that is read outside of its table") {
  // 3 queries at 0 ... 2 and 5 keys: distances -2 ... 4.
  const Eigen::VectorXf fits = Eigen::VectorXf::Zero(9), short_of_one = Eigen::VectorXf::Zero(7);
  const Eigen::VectorXf even = Eigen::VectorXf::Zero(10);
  CHECK(call().missing_with(attn::relative_bias(fits), {}) == "accepted");
  CHECK(call().missing_with(attn::relative_bias(short_of_one), {"relative_bias", "3", "4"}) == "");
  CHECK(call().missing_with(attn::relative_bias(even), {"relative_bias", "10", "odd"}) == "");
  CHECK(call().missing_with(attn::relative_bias(Eigen::VectorXf(0)), {"relative_bias"}) == "");
  CHECK(call().missing_with(attn::relative_bias(fits), {"relative_bias", "4", "5"},
                            {.alignment = attn::offset(-1)}) == "");
  CHECK(call().missing_with(attn::relative_bias(fits), {"relative_bias", "4", "5"},
                            {.alignment = attn::offset(3)}) == "");
  CHECK(call().missing_with(attn::relative_bias(fits), {}, {.alignment = attn::bottom_right}) ==
        "accepted");
  CHECK(call().missing_with(attn::relative_bias(MatrixXf::Zero(2, 9)),
                            {"relative_bias", "2", "1"}) == "");
  CHECK(call().missing_with(attn::compose(attn::softcap(1), attn::relative_bias(short_of_one)),
                            {"relative_bias"}) == "");
}

// What a call with bad input was asked to write to stays as it was.
TEST_CASE("outputs that don't fit are refused, and nothing is written when a call is refused") {
  MatrixXf weights = MatrixXf::Constant(2, 2, 7), backing = MatrixXf::Constant(9, 9, 7);
  Eigen::VectorXf lse = Eigen::VectorXf::Constant(2, 7);
  const auto untouched = [&] {
    return weights == MatrixXf::Constant(2, 2, 7) && lse == Eigen::Vector2f(7, 7) &&
           backing == MatrixXf::Constant(9, 9, 7);
  };
  const auto refused = [&](const attn::options& options, const std::vector<std::string>& words) {
    CHECK(call().missing(attn::none(), words, options) == "");
    CHECK(untouched());
  };
  Eigen::MatrixXd doubles;
  Eigen::VectorXd double_vector;
  Eigen::Matrix<float, 3, 4> fixed;
  Eigen::Map<MatrixXf> map(backing.data(), 3, 4);
  Eigen::Ref<MatrixXf> ref(backing);
  refused({.log_sum_exp = lse, .weights = doubles}, {"weights", "type"});
  refused({.log_sum_exp = double_vector, .weights = weights}, {"log_sum_exp", "type"});
  refused({.log_sum_exp = lse, .weights = fixed}, {"weights", "3", "4", "5"});
  refused({.log_sum_exp = lse, .weights = map}, {"weights", "3", "4", "5"});
  refused({.log_sum_exp = lse, .weights = ref}, {"weights", "9", "3", "5"});
  refused({.log_sum_exp = lse, .weights = backing.block(0, 0, 2, 5)}, {"weights", "2", "3"});
  refused({.log_sum_exp = lse, .weights = backing.topRows(5)}, {"weights", "5", "3"});
  refused({.log_sum_exp = lse, .weights = double_vector}, {"weights", "type"});
  refused({.log_sum_exp = backing.col(0), .weights = weights}, {"log_sum_exp", "9", "3"});
  refused({.log_sum_exp = backing.topLeftCorner(3, 2), .weights = weights},
          {"log_sum_exp", "2", "1"});

  // Each of the two is sound, something else is not.
  const attn::options both{.log_sum_exp = lse, .weights = weights};
  CHECK(call{.k = MatrixXf(5, 7)}.missing(attn::none(), {"key"}, both) == "");
  CHECK(untouched());
  CHECK(call().missing(attn::causal(), {"alignment"}, both) == "");
  CHECK(untouched());
  CHECK(call().missing(MatrixXf::Zero(2, 5), {"mask"}, both) == "");
  CHECK(untouched());
  CHECK(call().missing_with(
            attn::alibi(nan), {"alibi"},
            {.alignment = attn::top_left, .log_sum_exp = lse, .weights = weights}) == "");
  CHECK(untouched());
  CHECK(call().missing(attn::none(), {"scale"},
                       {.log_sum_exp = lse, .scale = nan, .weights = weights}) == "");
  CHECK(untouched());
}

TEST_CASE("outputs that lie on what a mask, a score change or sinks read") {
  MatrixXf memory = MatrixXf::Zero(9, 9);
  const auto bias = memory.topLeftCorner(3, 5);
  const auto table = memory.col(8);
  const attn::options on_bias{.weights = memory.topLeftCorner(3, 5)};
  CHECK(call().missing(bias, {"options.weights overlaps mask"}, on_bias) == "");
  CHECK(call().missing(attn::key_padding(2) & attn::as_mask(bias), {"overlaps mask"}, on_bias) ==
        "");
  const attn::options on_table{.alignment = attn::top_left, .log_sum_exp = memory.col(8).head(3)};
  CHECK(call().missing_with(attn::relative_bias(table),
                            {"options.log_sum_exp overlaps relative_bias"}, on_table) == "");
  CHECK(call().missing_with(attn::compose(attn::softcap(1), attn::relative_bias(table)),
                            {"overlaps relative_bias"}, on_table) == "");
  CHECK(call().missing_with(attn::relative_bias(table), {},
                            {.alignment = attn::top_left, .log_sum_exp = memory.col(7).head(3)}) ==
        "accepted");
  Eigen::VectorXf sink = Eigen::VectorXf::Zero(1);
  attn::options on_sink{.sink = sink};
  on_sink.log_sum_exp = sink;
  const MatrixXf q = MatrixXf::Ones(1, 4);
  CHECK(missing([&] { attn::scaled_dot_product_attention(q, q, q, on_sink); },
                {"log_sum_exp overlaps options.sink"}) == "");
  CHECK((memory.leftCols(7).isZero(0) && memory.col(8).isZero(0)));
}

TEST_CASE("nothing of the caller's is asked before the input is found good") {
  bool asked = false;
  const auto mask = [&](attn::index, attn::index) { return asked = true; };
  const auto change = [&](float s, attn::position) {
    asked = true;
    return s;
  };
  const attn::options options{.alignment = attn::top_left, .scale = nan};
  const call c;
  CHECK(missing([&] { attn::scaled_dot_product_attention(c.q, c.k, c.v, mask, change, options); },
                {"scale"}) == "");
  CHECK(!asked);
}

}  // namespace
