// The smallest use: attention in three lines, and the two numbers behind it.
#include <attn/attn.hpp>
#include <iostream>

int main() {
  const Eigen::MatrixXf x{{1, 0}, {0, 1}, {1, 1}};  // three tokens of two features each
  const Eigen::MatrixXf out = attn::scaled_dot_product_attention(x, x, x);
  std::cout << "Every token becomes a mean of all, by how alike they are:\n" << out << "\n\n";

  // How alike a query and a key are is their dot product.
  const Eigen::RowVector2f query(1, 2), key(3, 4);
  std::cout << "[1,2] . [3,4] = " << attn::score(query, key) << "\n\n";

  // It grows with the number of features d_k, and is therefore divided by its root.
  const Eigen::MatrixXf ones = Eigen::MatrixXf::Ones(1, 64);
  Eigen::VectorXf scaled;  // ln Σ exp(score), which for a single key is its score
  attn::scaled_dot_product_attention(ones, ones, ones, {.log_sum_exp = scaled});
  std::cout << "at d_k = 64 a score of " << attn::score(ones, ones) << " becomes "
            << attn::score(ones, ones) << " / sqrt(64) = " << scaled << "\n";
}
