// Gradients against central differences of the forward call, one feature after the other.
#include "gradient/support.hpp"

namespace attn_test {
namespace {

// A loss that weighs each number of the result differently.
template <class Out, class Lse>
double loss(const gradient_problem<double>& g, const Out& out, const Lse& lse) {
  double sum = (out.array() * g.out_gradient.array()).sum();
  for (index i = 0; i < g.log_sum_exp_gradient.size(); ++i) {
    if (std::isfinite(lse(i))) sum += lse(i) * g.log_sum_exp_gradient(i);
  }
  return sum;
}

// d loss / d x by moving each of its numbers, which are those of a call that `run_loss` makes.
template <class Matrix, class Loss>
matrix<double> differences(Matrix& x, const Loss& run_loss) {
  const double h = tolerance::central_difference_step(tolerance::eps<double>());
  matrix<double> gradient(x.rows(), x.cols());
  for (index i = 0; i < x.rows(); ++i) {
    for (index j = 0; j < x.cols(); ++j) {
      const double before = x(i, j);
      x(i, j) = before + h;
      const double above = run_loss();
      x(i, j) = before - h;
      gradient(i, j) = (above - run_loss()) / (2 * h);
      x(i, j) = before;
    }
  }
  return gradient;
}

void check_near(const char* name, const matrix<double>& found, const matrix<double>& expected) {
  INFO(name);
  REQUIRE(found.rows() == expected.rows());
  REQUIRE(found.cols() == expected.cols());
  if (found.size() == 0) return;
  CHECK((found - expected).cwiseAbs().maxCoeff() <
        tolerance::central_difference(tolerance::eps<double>()));
}

// A small call of five queries and seven keys. `rules(use)` calls use(mask, score_mod), made of the
// bias, table and slope here as they then are.
struct learned {
  gradient_problem<double> g;
  matrix<double> bias;
  matrix<double> table = matrix<double>::Zero(1, 27);
  matrix<double> slope = matrix<double>::Constant(1, 1, 0.2);
  matrix<double> sink = matrix<double>::Constant(1, 1, 0.3);

  explicit learned(generator& from, index bias_rows = 5)
      : g(any_gradient_problem<double>(from, {5, 7, 3, 4})),
        bias(any_matrix<matrix<double>>(from, bias_rows, 7)) {
    g.forward.offset = 2;
    g.log_sum_exp_gradient = any_matrix<vector<double>>(from, 5, 1);
    g.forward.scale = std::nullopt;
    g.forward.sink = -std::numeric_limits<double>::infinity();
    table = any_matrix<matrix<double>>(from, 1, 27);
  }
};

template <class Rules>
void check_differences(learned& x, const std::vector<part>& parts, const Rules& rules,
                       const attn::options& given = {}) {
  const bool has_sink = std::count(parts.begin(), parts.end(), of_sink) > 0;
  problem<double>& p = x.g.forward;
  const auto run_loss = [&] {
    if (has_sink) p.sink = x.sink(0, 0);
    double value = 0;
    rules([&](const auto& mask, const auto& change) {
      vector<double> lse;
      attn::options options = options_of(x.g, given);
      options.log_sum_exp = lse;
      const auto out = attn::scaled_dot_product_attention(p.q, p.k, p.v, mask, change, options);
      value = loss(x.g, out, lse);
    });
    return value;
  };
  run_loss();
  gradient_matrices<double> found;
  rules([&](const auto& mask, const auto& change) {
    found = run_gradients(x.g, mask, change, parts, given);
  });
  for (const part n : parts) {
    matrix<double>* const numbers[] = {&p.q, &p.k, &p.v, &x.bias, &x.table, &x.slope, &x.sink};
    const matrix<double> expected = differences(*numbers[n], run_loss);
    CHECK(expected.cwiseAbs().maxCoeff() > 1e-3);  // else it tells nothing
    check_near(name_of(n), found[n].rows() == expected.rows() ? found[n] : found[n].transpose(),
               expected);
  }
}

const std::vector<part> inputs{of_query, of_key, of_value};
const std::vector<part> inputs_and_bias{of_query, of_key, of_value, of_bias};

TEST_CASE("central differences of masks, scales, sinks and dropout") {
  generator g(921);
  const auto plain = [](const auto& mask) {
    return [&mask](const auto& use) { use(mask, attn::identity()); };
  };
  for (const any_mask& mask :
       {any_mask(attn::none()), any_mask(attn::causal()), any_mask(attn::key_padding(3))}) {
    learned x(g);
    check_differences(x, inputs, plain(mask));
    check_differences(x, inputs_and_sink(), plain(mask));
    x.g.forward.scale = -0.8;
    check_differences(x, inputs, plain(mask));
    check_differences(x, inputs_and_sink(), plain(mask), {.dropout = {0.4, 17}});
  }
}

TEST_CASE("central differences of rows that see nothing") {
  generator g(922);
  learned x(g);
  const any_mask mask(attn::as_mask([](attn::position at) { return at.row % 2 == 0; }));
  check_differences(x, inputs_and_sink(), [&](const auto& use) { use(mask, attn::identity()); });
}

TEST_CASE("central differences of biases") {
  generator g(923);
  for (const index rows : {5, 1}) {
    learned x(g, rows);
    check_differences(x, inputs_and_bias, [&](const auto& use) {
      use(any_mask(attn::causal()) & attn::as_mask(x.bias),
          any_smooth_change<double>(attn::softcap(2)));
    });
    check_differences(x, inputs_and_bias,
                      [&](const auto& use) { use(attn::as_mask(x.bias), attn::identity()); },
                      {.dropout = {0.4, 18}});
  }
}

TEST_CASE("central differences of score changes") {
  generator g(924);
  for (const auto& c : every_smooth_change<double>(g, {5, 7, 3, 4}, 2)) {
    INFO(c.name);
    learned x(g);
    check_differences(x, inputs,
                      [&](const auto& use) { use(any_mask(attn::causal()), c.library); });
  }
}

TEST_CASE("central differences of slopes and tables") {
  generator g(925);
  const std::vector<part> parts{of_query, of_key, of_value, of_table, of_slope};
  learned x(g);
  check_differences(x, parts, [&](const auto& use) {
    use(any_mask(attn::causal()),
        attn::compose(attn::alibi(x.slope(0, 0)), attn::relative_bias(x.table), attn::softcap(2)));
  });
  check_differences(x, parts,
                    [&](const auto& use) {
                      use(any_mask(attn::none()),
                          attn::compose(attn::relative_bias(x.table), attn::alibi(x.slope(0, 0)),
                                        [](auto s) { return s * attn::math::sigmoid(s); }));
                    },
                    {.dropout = {0.3, 19}});
}

}  // namespace
}  // namespace attn_test
