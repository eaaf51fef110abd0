// Why scores are divided by √d_k: their variance grows with d_k, and a softmax of large scores puts
// everything on one key, where its gradient vanishes.
#include <attn/attn.hpp>
#include <cmath>
#include <cstdio>
#include <random>

namespace {

Eigen::MatrixXd normal(attn::index rows, attn::index cols, std::mt19937_64& generator) {
  std::normal_distribution<double> draw;
  return Eigen::MatrixXd::NullaryExpr(rows, cols, [&] { return draw(generator); });
}

double variance(const Eigen::MatrixXd& m) { return (m.array() - m.mean()).square().mean(); }

// The softmax's derivative in row p is J = diag(p) - p pᵀ; ‖J‖² = Σ p² - 2 Σ p³ + (Σ p²)².
Eigen::ArrayXd gradients(const Eigen::MatrixXd& scores) {
  const Eigen::ArrayXXd p = attn::softmax(scores).array();
  const Eigen::ArrayXd squares = p.square().rowwise().sum();
  return (squares - 2 * p.cube().rowwise().sum() + squares.square()).max(0).sqrt();
}

// The share of rows that hardly learn, in percent.
double stuck(const Eigen::ArrayXd& gradients) {
  return 100 * (gradients < 0.01).cast<double>().mean();
}

}  // namespace

int main() {
  std::mt19937_64 generator(1);
  std::printf("512 queries and 64 keys of independent numbers with variance 1\n\n");
  std::printf("        variance of scores   norm of the softmax's    rows where that\n");
  std::printf("                             gradient, on average     is below 0.01\n");
  std::printf("  d_k     q.k  q.k/sqrt(d)      q.k  q.k/sqrt(d)      q.k  q.k/sqrt(d)\n");
  for (attn::index d = 4; d <= 1024; d *= 4) {
    const Eigen::MatrixXd query = normal(512, d, generator);
    const Eigen::MatrixXd key = normal(64, d, generator);
    const Eigen::MatrixXd raw = attn::score(query, key);
    const Eigen::MatrixXd scaled = attn::scale(raw, 1 / std::sqrt(double(d)));
    const Eigen::ArrayXd raw_gradients = gradients(raw), scaled_gradients = gradients(scaled);
    std::printf("%5td  %6.1f  %11.2f   %6.3f  %11.3f   %5.0f%%  %10.0f%%\n", d, variance(raw),
                variance(scaled), raw_gradients.mean(), scaled_gradients.mean(),
                stuck(raw_gradients), stuck(scaled_gradients));
  }
  std::printf(
      "\nUnscaled, the variance is d_k: the softmax picks one key, and no gradient is left to "
      "learn\n"
      "another choice from. Scaled, nothing depends on d_k.\n");
}
