// Whether gradients are right: those of a call with a causal mask, a bias, a soft cap and dropout,
// against what comes of the loss when each number is moved a little up and down.
#include <algorithm>
#include <attn/attn.hpp>
#include <cmath>
#include <cstdio>
#include <random>

namespace {

using matrix = Eigen::MatrixXd;

// (loss(number + step) - loss(number - step)) / 2 step is off by step² times a third derivative and
// by the rounding of the loss over step: this step makes both small.
const double step = std::cbrt(0x1p-52);

template <class Loss>
matrix by_differences(matrix& numbers, const Loss& loss) {
  matrix gradient(numbers.rows(), numbers.cols());
  for (attn::index n = 0; n < numbers.size(); ++n) {
    double& number = numbers.data()[n];
    const double was = number;
    number = was + step;
    const double above = loss();
    number = was - step;
    gradient.data()[n] = (above - loss()) / (2 * step);
    number = was;
  }
  return gradient;
}

}  // namespace

int main() {
  constexpr attn::index length = 24, width = 8;
  std::mt19937_64 generator(1);
  const auto random = [&](attn::index rows, attn::index cols) {
    matrix m(rows, cols);
    attn::xavier_uniform(m, generator);
    return matrix(std::sqrt(double(rows + cols)) * m);  // of size 1
  };
  matrix query = random(length, width), key = random(length, width), value = random(length, width);
  matrix bias = random(length, length);
  const matrix weights = random(length, width);  // the loss is a weighted sum of the result

  const auto softcap = attn::softcap(5);
  const attn::dropout dropout{.probability = 0.2, .seed = 1};
  const auto loss = [&] {
    return attn::scaled_dot_product_attention(query, key, value, attn::causal() & bias, softcap,
                                              {.dropout = dropout})
        .cwiseProduct(weights)
        .sum();
  };

  Eigen::VectorXd log_sum_exp;
  const matrix out =
      attn::scaled_dot_product_attention(query, key, value, attn::causal() & bias, softcap,
                                         {.dropout = dropout, .log_sum_exp = log_sum_exp});
  matrix of_query, of_key, of_value, of_bias;
  attn::scaled_dot_product_attention_backward(
      {.bias = of_bias, .key = of_key, .query = of_query, .value = of_value},
      {.log_sum_exp = log_sum_exp, .out = out, .out_gradient = weights}, query, key, value,
      attn::causal() & bias, softcap, {.dropout = dropout});

  std::printf("gradient of    numbers   largest   largest difference\n");
  double worst = 0;
  const auto compare = [&](const char* name, matrix& numbers, const matrix& gradient) {
    const double difference = (gradient - by_differences(numbers, loss)).cwiseAbs().maxCoeff();
    std::printf("%-12s %9td %9.3f %20.1e\n", name, numbers.size(), gradient.cwiseAbs().maxCoeff(),
                difference);
    worst = std::max(worst, difference);
  };
  compare("query", query, of_query);
  compare("key", key, of_key);
  compare("value", value, of_value);
  compare("bias", bias, of_bias);
  const bool agree = worst < 1e-8;
  std::printf("they %s\n", agree ? "agree" : "do not agree");
  return agree ? 0 : 1;
}
