// The five stages of attention by hand, on numbers small enough to follow, and the one call that
// does them all.
#include <attn/attn.hpp>
#include <cmath>
#include <iostream>

int main() {
  const Eigen::MatrixXd query{{1, 2}, {0, 1}, {2, 0}};
  const Eigen::MatrixXd key{{3, 4}, {1, 0}, {0, 2}};
  const Eigen::MatrixXd value{{1, 0, 0}, {0, 10, 0}, {0, 0, 100}};
  const auto show = [](const char* stage, const Eigen::MatrixXd& m) {
    static const Eigen::IOFormat rows(3, 0, "  ", "\n", "    ");
    std::cout << stage << "\n" << m.format(rows) << "\n\n";
  };

  const Eigen::MatrixXd products = attn::score(query, key);
  show("score: a row a query, a column a key; the first is [1,2] . [3,4]", products);

  const Eigen::MatrixXd scaled = attn::scale(products, 1 / std::sqrt(2.0));
  show("scale: divided by the root of d_k = 2", scaled);

  const Eigen::MatrixXd masked = attn::apply_mask(scaled, attn::causal());
  show("mask: causal, no query sees a later key", masked);

  const Eigen::MatrixXd weights = attn::softmax(masked);
  show("softmax: every row sums to 1", weights);

  const Eigen::MatrixXd by_hand = attn::weighted_sum(weights, value, attn::causal());
  show("weighted sum: each query's mean of the values", by_hand);

  const Eigen::MatrixXd at_once =
      attn::scaled_dot_product_attention(query, key, value, attn::causal());
  const double difference = (at_once - by_hand).cwiseAbs().maxCoeff();
  std::cout << "the one call gives the same: " << (difference < 1e-12 ? "yes" : "no") << "\n";
  return difference < 1e-12 ? 0 : 1;
}
