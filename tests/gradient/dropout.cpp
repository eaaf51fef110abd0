// Dropout: the random numbers, which weights they leave out, and that forward and backward agree.
#include <attn/dropout.hpp>

#include "gradient/heads_support.hpp"

namespace attn_test {
namespace {

// Random123's known answers for philox4x32-10 (tests/kat_vectors): counter, key, words.
TEST_CASE("the published vectors of Philox 4x32-10") {
  using four = std::array<std::uint32_t, 4>;
  CHECK(attn::philox::words({0, 0, 0, 0}, {0, 0}) ==
        four{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(attn::philox::words({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
                            {0xffffffff, 0xffffffff}) ==
        four{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(attn::philox::words({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
                            {0xa4093822, 0x299f31d0}) ==
        four{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

// A model trained in part goes on with the same draws: by the vectors above, one word a key, kept
// where it is at least the probability's part of 2^32.
TEST_CASE("what is dropped does not change from version to version") {
  const auto factor = [](const attn::dropout& d, const attn::position& at) {
    return attn::dropout_factor(d, at);
  };
  const double words[] = {0x6627e8d5p-32, 0xe169c58dp-32, 0xbc57ac4cp-32, 0x9b00dbd8p-32};
  for (std::int32_t j = 0; j < 4; ++j) {
    for (const double p : {0.1, 0.45, 0.65, 0.8, 0.9}) {
      CAPTURE(j, p);
      CHECK(factor({p, 0}, {.row = 0, .key = j}) == (words[j] < p ? 0 : 1 / (1 - p)));
    }
  }
  const std::uint64_t seed = 0x299f31d0a4093822;
  const attn::position at{.batch = 0x03707344, .head = 0x13198a2e, .row = 0x243f6a88, .query = 5};
  attn::position key = at;
  key.key = 0x05a308d3;  // 4 x 0x0168c234 + 3
  const auto drawn = attn::philox::words({0x243f6a88, 0x0168c234, 0x13198a2e, 0x03707344},
                                         {0xa4093822, 0x299f31d0})[3];
  const double share = drawn * 0x1p-32;
  CHECK(factor({share - 1e-9, seed}, key) > 1);
  CHECK(factor({share + 1e-9, seed}, key) == 0);
}

// Σ_j K_ij P_ij v_j, from the weights of the reference.
template <class Scalar>
std::string dropped_out_is_wrong(const problem<Scalar>& p, const attn::dropout& draws,
                                 const matrix<Scalar>& out) {
  const expectation<Scalar> plain = expect(p);
  matrix<wide<Scalar>> exact = matrix<wide<Scalar>>::Zero(p.q.rows(), p.v.cols());
  for (index i = 0; i < p.q.rows(); ++i) {
    for (index j = 0; j < p.k.rows(); ++j) {
      const auto narrow = [](index n) { return static_cast<std::int32_t>(n); };
      const double kept = attn::dropout_factor(
          draws, {narrow(p.batch), narrow(p.head), narrow(i), narrow(i + p.offset), narrow(j)});
      for (index c = 0; c < p.v.cols(); ++c) {
        exact(i, c) += static_cast<wide<Scalar>>(kept) * plain.exact.weights(i, j) *
                       static_cast<wide<Scalar>>(p.v(j, c));
      }
    }
  }
  // What is kept is so much larger, and so is its error.
  const auto larger = static_cast<wide<Scalar>>(2 / (1 - draws.probability));
  const matrix<wide<Scalar>> allowed = plain.out_error * larger;
  return disagreement("out", exact, allowed, out, false);
}

template <class Scalar>
void check_forward(generator& g, shape n) {
  auto p = any_problem<Scalar>(g, n, 1);
  p.offset = n.keys - n.queries;
  if (g.chance(0.3)) p.sink = g.uniform();
  for (const bool causal : {false, true}) {
    if (causal) p.visible = [](place at) { return at.key <= at.query; };
    const any_mask mask = causal ? any_mask(attn::causal()) : any_mask(attn::none());
    for (const double probability : {0.1, 0.5, 0.9}) {
      CAPTURE(n.queries, n.keys, causal, probability);
      const attn::dropout draws{probability, g.next()};
      vector<accumulator<Scalar>> lse;
      matrix<accumulator<Scalar>> weights;
      attn::options options{
          .alignment = attn::bottom_right, .dropout = draws, .log_sum_exp = lse, .sink = p.sink};
      const matrix<Scalar> out = attn::scaled_dot_product_attention(p.q, p.k, p.v, mask, options);
      CHECK(dropped_out_is_wrong(p, draws, out) == "");
      options.weights = weights;
      const matrix<Scalar> beside =
          attn::scaled_dot_product_attention(p.q, p.k, p.v, mask, options);
      CHECK(dropped_out_is_wrong(p, draws, beside) == "");
      // Weights and log-sum-exps are those without dropout.
      const auto plain = run(one_call(), p, mask, attn::identity());
      CHECK(same_bits(weights, plain.weights));
      CHECK(expect(p).against_log_sum_exp(lse) == "");
    }
  }
}

TEST_CASE("the forward pass drops what the formula drops") {
  generator g(971);
  for (const shape n : {shape{1, 1, 3, 2},
                        {16, 17, 5, 4},
                        {49, 130, 7, 3},
                        {3, 1500, 4, 5},
                        {130, 3, 4, 4},
                        {8, 128, 16, 16}}) {
    check_forward<float>(g, n);
    check_forward<double>(g, n);
  }
  check_forward<Eigen::half>(g, {16, 17, 5, 4});
  check_forward<Eigen::bfloat16>(g, {5, 40, 5, 4});
  check_forward<long double>(g, {9, 10, 5, 4});
}

template <class T>
void check_batch(const training_batch<T>& of, const attn::dropout& draws) {
  const attn::options options = of.options({.dropout = draws});
  heads_array<T> out;
  if (of.is_packed()) {
    out = attn::packed_attention(of.q, of.k, of.v, {of.query_starts, of.key_starts}, attn::causal(),
                                 options);
  } else {
    out = attn::scaled_dot_product_attention(of.q, of.k, of.v, attn::causal(), options);
  }
  for (index b = 0; b < of.batch(); ++b) {
    for (index h = 0; h < of.q.shape().heads; ++h) {
      CAPTURE(b, h);
      const auto rows = of.queries(b);
      const matrix<T> part = out.head(rows.batch, h).middleRows(rows.first, rows.count);
      CHECK(dropped_out_is_wrong(of.head(b, h).forward, draws, part) == "");
    }
  }
}

template <class T>
training_batch<T> any_dropping(generator& g, const attn::dropout& draws, heads_shape query,
                               heads_shape key) {
  auto of = any_batch<T>(g, query, key, 5);
  of.rules = [=](gradient_problem<T>& p) {
    p.forward.visible = [](place at) { return at.key <= at.query; };
    p.kept = [=](place at) {
      const auto narrow = [](index n) { return static_cast<std::int32_t>(n); };
      return attn::dropout_factor(draws, {narrow(at.batch), narrow(at.head), narrow(at.row),
                                          narrow(at.query), narrow(at.key)});
    };
  };
  return of;
}

template <class T>
void check_backward(const training_batch<T>& of, const attn::dropout& draws) {
  const auto found = run_batch(of, attn::causal(), attn::identity(), {}, {.dropout = draws});
  CHECK(batch_expectation<T>(of, {0, 0, 0, 0}, 0, 0).against(found) == "");
  const auto threads = run_batch(of, attn::causal(), attn::identity(), {},
                                 {.dropout = draws, .executor = attn::std_threads(3)});
  check_same(found.query, threads.query);
  check_same(found.key, threads.key);
  check_same(found.value, threads.value);
}

TEST_CASE("heads, sequences and packed ones draw by their numbers, forward and back") {
  generator g(972);
  const attn::dropout draws{0.3, 0x123456789abcdef0};
  auto of = any_dropping<float>(g, draws, {3, 4, 20, 6}, {3, 2, 37, 6});
  check_batch(of, draws);
  check_backward(of, draws);
  of.query_lengths = {20, 0, 7};
  of.key_lengths = {5, 37, 30};
  of.sinks = {0.5};
  check_batch(of, draws);
  check_backward(of, draws);
  const auto shared = any_dropping<double>(g, draws, {3, 2, 12, 6}, {1, 1, 14, 6});
  check_batch(shared, draws);
  check_backward(shared, draws);
  auto packed = any_dropping<float>(g, draws, {1, 4, 60, 6}, {1, 2, 700, 6});
  packed.query_starts = {0, 5, 5, 20, 21, 60};
  packed.key_starts = {0, 3, 50, 50, 610, 700};
  check_batch(packed, draws);
  check_backward(packed, draws);
  const auto large = any_dropping<float>(g, draws, {1, 2, 530, 3}, {1, 2, 1040, 3});
  check_batch(large, draws);
  check_backward(large, draws);
}

TEST_CASE("a share of 1 - probability is kept, and no row, key, head or sequence stands out") {
  for (const double p : {0.01, 0.1, 0.5, 0.93}) {
    CAPTURE(p);
    const attn::dropout draws{p, 42};
    constexpr std::int32_t n = 24;
    double sums[4][n] = {};
    const auto kept = [&](const attn::position& at) {
      return attn::dropout_factor(draws, at) > 0 ? 1.0 : 0.0;
    };
    for (std::int32_t b = 0; b < n; ++b) {
      for (std::int32_t h = 0; h < n; ++h) {
        for (std::int32_t i = 0; i < n; ++i) {
          for (std::int32_t j = 0; j < n; ++j) {
            const double one = kept({b, h, i, i, j});
            sums[0][b] += one;
            sums[1][h] += one;
            sums[2][i] += one;
            sums[3][j] += one;
          }
        }
      }
    }
    const double draws_each = std::pow(n, 3), deviation = std::sqrt(p * (1 - p) * draws_each);
    for (const auto& dimension : sums) {
      double all = 0;
      for (const double sum : dimension) {
        CHECK(std::abs(sum - (1 - p) * draws_each) < 5 * deviation);
        all += sum;
      }
      CHECK(std::abs(all - (1 - p) * draws_each * n) < 5 * deviation * std::sqrt(n));
    }
  }
}

TEST_CASE("probability 0 gives the very bits of no dropout") {
  generator g(973);
  for (const shape n : {shape{3, 500, 4, 5}, {70, 60, 8, 8}}) {
    const auto p = any_gradient_problem<float>(g, n);
    const auto plain = run_gradients(p, attn::none(), attn::identity(), inputs_and_sink());
    const auto zero =
        run_gradients(p, attn::none(), attn::identity(), inputs_and_sink(), {.dropout = {0, 99}});
    CHECK(same_bits(plain, zero, inputs_and_sink()));
    const auto& [q, k, v] = std::tie(p.forward.q, p.forward.k, p.forward.v);
    CHECK(same_bits(matrix<float>(attn::scaled_dot_product_attention(q, k, v)),
                    matrix<float>(attn::scaled_dot_product_attention(
                        q, k, v, {.dropout = {.probability = 0, .seed = 99}}))));
  }
}

TEST_CASE("a seed tells all; another one, in any of its bits, something else") {
  generator g(974);
  const auto p = any_problem<float>(g, {40, 50, 6, 5});
  const auto with = [&](std::uint64_t seed, const attn::executor& executor = {}) {
    return matrix<float>(attn::scaled_dot_product_attention(
        p.q, p.k, p.v, {.dropout = {0.2, seed}, .executor = executor}));
  };
  const matrix<float> first = with(7);
  CHECK(same_bits(first, with(7)));
  for (const int threads : {2, 3, 7}) CHECK(same_bits(first, with(7, attn::std_threads(threads))));
  for (int bit = 0; bit < 64; ++bit) {
    CAPTURE(bit);
    CHECK(!same_bits(first, with(7 ^ std::uint64_t{1} << bit)));
  }
}

}  // namespace
}  // namespace attn_test
