// Every way to call attention, one line each.
#include <attn/attn.hpp>
#include <cmath>
#include <cstdio>
#include <cstdlib>

// NOLINTNEXTLINE(readability-function-size): a list is what it is
int main() {
  const Eigen::MatrixXf q = Eigen::MatrixXf::Random(6, 4), k = Eigen::MatrixXf::Random(6, 4),
                        v = Eigen::MatrixXf::Random(6, 3);
  Eigen::MatrixXf out = attn::scaled_dot_product_attention(q, k, v);

  // Masks of the library.
  out = attn::scaled_dot_product_attention(q, k, v, attn::causal());

  // A matrix as a mask: of bool, or to be added to the scores.
  const Eigen::MatrixX<bool> visible = Eigen::MatrixX<bool>::Constant(6, 6, true);
  const Eigen::MatrixXf bias = Eigen::MatrixXf::Zero(6, 6);
  out = attn::scaled_dot_product_attention(q, k, v, visible);
  out = attn::scaled_dot_product_attention(q, k, v, (bias.array() >= 0));
  out = attn::scaled_dot_product_attention(q, k, v, bias);

  // Masks combined.
  out = attn::scaled_dot_product_attention(q, k, v, attn::causal() & attn::sliding_window(256));
  out = attn::scaled_dot_product_attention(q, k, v, attn::causal() & visible & bias);
  out = attn::scaled_dot_product_attention(q, k, v, visible & attn::causal());
  out = attn::scaled_dot_product_attention(q, k, v, (bias.array() >= 0) & attn::causal());
  out = attn::scaled_dot_product_attention(
      q, k, v, ~attn::causal() | attn::sliding_window(1, attn::unbounded));

  // A function as a mask, of the query's position and the key.
  const Eigen::VectorXi document = Eigen::VectorXi::Zero(6);
  const auto same = [&](attn::index i, attn::index j) { return document[i] == document[j]; };
  out = attn::scaled_dot_product_attention(q, k, v, same);
  out = attn::scaled_dot_product_attention(q, k, v, attn::causal() & same);
  out = attn::scaled_dot_product_attention(q, k, v, [](auto i, auto j) { return i >= j; });
  out = attn::scaled_dot_product_attention(q, k, v, [](int i, int j) { return i >= j; });

  // Options, after the mask or without one.
  out = attn::scaled_dot_product_attention(q, k, v, attn::causal(),
                                           {.alignment = attn::bottom_right});
  out = attn::scaled_dot_product_attention(q, k, v, {.scale = 0.05});
  out = attn::scaled_dot_product_attention(q, k, v, {});
  out = attn::scaled_dot_product_attention(q, k, v, attn::causal(), {});
  const attn::options kept{.executor = attn::std_threads{2}, .scale = 0.05};
  out = attn::scaled_dot_product_attention(q, k, v, kept);
  out = attn::scaled_dot_product_attention(q, k, v, attn::causal(), kept);
  Eigen::VectorXf log_sum_exp;
  out = attn::scaled_dot_product_attention(q, k, v, {.log_sum_exp = log_sum_exp});

  // A function that changes the scores.
  const auto nearer = [](float s, attn::position at) {
    return s - 0.1f * float(std::abs(at.query - at.key));
  };
  out = attn::scaled_dot_product_attention(q, k, v, attn::causal(), nearer, {.scale = 0.05});
  out = attn::scaled_dot_product_attention(q, k, v, attn::none(), [](auto s, auto at) {
    return s - decltype(s)(0.1 * std::abs(at.query - at.key));
  });

  // Expressions, and sizes fixed at compile time.
  out = attn::scaled_dot_product_attention(q.topRows(3), k.transpose().transpose(), v,
                                           visible.row(0));
  const Eigen::Matrix<float, 4, 8> eight = Eigen::Matrix<float, 4, 8>::Random();
  const Eigen::Vector4f one = Eigen::Vector4f::Random();
  const auto fixed = attn::scaled_dot_product_attention(eight, eight, one);
  static_assert(decltype(fixed)::SizeAtCompileTime == 4);

  // The stages.
  const auto weights =
      attn::softmax(attn::scale(attn::score(q, k), 1 / std::sqrt(double(q.cols()))));
  const auto result = attn::weighted_sum(weights, v);
  const double difference = (result - attn::scaled_dot_product_attention(q, k, v)).norm();
  std::printf("%td x %td, %td, %td; the stages differ from the one call by %.0e\n", out.rows(),
              out.cols(), log_sum_exp.size(), fixed.size(), difference);
}
