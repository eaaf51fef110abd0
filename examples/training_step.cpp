// One step of gradient descent on one layer, to be copied: forward, loss, backward, a step along
// the gradients, with dropout on the way.
#include <attn/attn.hpp>
#include <iostream>

int main() {
  attn::multi_head_attention<float> layer({.heads = 4, .width = 32});
  const Eigen::MatrixXf x = Eigen::MatrixXf::Random(20, 32);       // 20 tokens of 32 features
  const Eigen::MatrixXf wanted = Eigen::MatrixXf::Random(20, 32);  // what should come of them
  const auto loss = [&](const Eigen::MatrixXf& out) { return (out - wanted).squaredNorm() / 2; };
  const float before = loss(layer(x, x, x, attn::causal()));
  std::cout << "loss before: " << before << "\n";

  // The same mask, score change and options for both; another seed for each step.
  const attn::options training{.dropout = {.probability = 0.1, .seed = 1}};
  const auto [out, tape] = layer.forward(x, attn::causal(), training);
  const Eigen::MatrixXf out_gradient = out - wanted;  // d loss / d out
  const auto back = layer.backward(tape, out_gradient, attn::causal(), training);

  auto parameters = layer.parameters();
  for (std::size_t n = 0; n < parameters.size(); ++n) {
    auto& [name, values] = parameters[n];
    values -= 0.005f * back.parameters[n].values;
    std::cout << "  " << name << ", " << values.rows() << " x " << values.cols()
              << ": gradient of norm " << back.parameters[n].values.norm() << "\n";
  }
  // back.x is the gradient of x, for the layer before this one.
  const float after = loss(layer(x, x, x, attn::causal()));
  std::cout << "loss after:  " << after << "\n";
  return after < before ? 0 : 1;
}
