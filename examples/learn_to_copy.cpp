// A layer learns, from random weights: to write a sequence of letters backwards. What it needs to
// find out is where to look, and the map of its attention shows that it has. Embedding, layer,
// readout and loss in one file, with their gradients.
#include <attn/attn.hpp>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include "terminal.hpp"

namespace {

using matrix = Eigen::MatrixXf;
using parameters = std::vector<attn::named_parameter<Eigen::Map<matrix>>>;
using gradients = attn::parameter_gradients<float>;

constexpr attn::index length = 12, letters = 26, width = 32, batch = 32;

// Token i of a sequence should become token length - 1 - i.
struct sequences {
  Eigen::VectorXi tokens;   // one sequence after the other
  std::vector<int> starts;  // where each begins

  sequences(attn::index count, std::mt19937_64& generator)
      : tokens(Eigen::VectorXi::NullaryExpr(
            count * length, [&] { return static_cast<int>(generator() % letters); })) {
    for (attn::index n = 0; n <= count; ++n) starts.push_back(static_cast<int>(n * length));
  }
  int wanted(attn::index i) const { return tokens(i - i % length + length - 1 - i % length); }
};

struct model {
  matrix token = matrix(letters, width), place = matrix(length, width);
  attn::multi_head_attention<float> attention{{.seed = 1, .width = width}};
  matrix readout = matrix(width, letters);

  explicit model(std::mt19937_64& generator) {
    for (matrix* each : {&token, &place, &readout}) attn::xavier_uniform(*each, generator);
  }

  parameters all() {
    parameters list = attention.parameters();
    for (matrix* each : {&token, &place, &readout}) {
      list.push_back({"", {each->data(), each->rows(), each->cols()}});
    }
    return list;
  }

  matrix embedded(const sequences& of) const {
    matrix x(of.tokens.size(), width);
    for (attn::index i = 0; i < x.rows(); ++i) {
      x.row(i) = token.row(of.tokens(i)) + place.row(i % length);
    }
    return x;
  }

  // A row a token, a column for each letter that may stand there.
  matrix logits(const sequences& of) const {
    return attention.packed(embedded(of), of.starts) * readout;
  }

  struct lesson {
    float loss;
    gradients of;  // in the order of `all`
  };

  // The mean of -ln(probability of the letter wanted), and its gradients.
  lesson learn(const sequences& from) const {
    const auto [seen, tape] = attention.forward_packed(embedded(from), from.starts);
    const matrix probability = attn::softmax(matrix(seen * readout));
    const auto count = static_cast<float>(from.tokens.size());
    float loss = 0;
    matrix of_logits = probability / count;
    for (attn::index i = 0; i < from.tokens.size(); ++i) {
      loss -= std::log(probability(i, from.wanted(i))) / count;
      of_logits(i, from.wanted(i)) -= 1 / count;
    }

    auto back = attention.backward(tape, of_logits * readout.transpose());
    matrix of_token = matrix::Zero(letters, width), of_place = matrix::Zero(length, width);
    for (attn::index i = 0; i < from.tokens.size(); ++i) {
      of_token.row(from.tokens(i)) += back.x.row(i);
      of_place.row(i % length) += back.x.row(i);
    }
    gradients of = std::move(back.parameters);
    for (const matrix& each : {of_token, of_place, matrix(seen.transpose() * of_logits)}) {
      of.push_back({"", each});
    }
    return {loss, std::move(of)};
  }

  float accuracy(const sequences& on) const {
    const matrix scores = logits(on);
    attn::index right = 0;
    for (attn::index i = 0; i < scores.rows(); ++i) {
      attn::index best = 0;
      scores.row(i).maxCoeff(&best);
      if (best == on.wanted(i)) ++right;
    }
    return static_cast<float>(right) / static_cast<float>(scores.rows());
  }
};

// Kingma and Ba: Adam, 2015, algorithm 1.
class adam {
 public:
  explicit adam(float rate) : rate_(rate) {}

  void step(parameters to, const gradients& along) {
    constexpr float keep_mean = 0.9f, keep_square = 0.98f, least = 1e-8f;
    ++steps_;
    const float mean_share = 1 - std::pow(keep_mean, steps_);
    const float square_share = 1 - std::pow(keep_square, steps_);
    for (std::size_t n = 0; n < to.size(); ++n) {
      const auto gradient = along[n].values.array();
      if (n == mean_.size()) {
        mean_.emplace_back(Eigen::ArrayXXf::Zero(gradient.rows(), gradient.cols()));
        square_.push_back(mean_.back());
      }
      mean_[n] += (1 - keep_mean) * (gradient - mean_[n]);
      square_[n] += (1 - keep_square) * (gradient.square() - square_[n]);
      to[n].values.array() -=
          rate_ * (mean_[n] / mean_share) / ((square_[n] / square_share).sqrt() + least);
    }
  }

 private:
  float rate_, steps_ = 0;
  std::vector<Eigen::ArrayXXf> mean_, square_;
};

// Until nearly all letters are right, or patience ends.
float train(model& learner, std::mt19937_64& generator) {
  constexpr int most_steps = 3000, steps_a_report = 25;
  constexpr float enough = 0.999f;
  adam optimiser(0.002f);
  float accuracy = 0, loss = 0;
  auto start = std::chrono::steady_clock::now();
  for (int step = 1; step <= most_steps && accuracy < enough; ++step) {
    auto [step_loss, of] = learner.learn(sequences(batch, generator));
    optimiser.step(learner.all(), of);
    loss += step_loss / steps_a_report;
    if (step % steps_a_report != 0) continue;
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    accuracy = learner.accuracy(sequences(500, generator));
    std::printf("step %4d   loss %6.4f   accuracy %5.1f %%   %7.0f tokens/s\n", step, double(loss),
                100 * double(accuracy), steps_a_report * batch * length / took.count());
    loss = 0;
    start = std::chrono::steady_clock::now();
  }
  return accuracy;
}

}  // namespace

int main() {
  std::mt19937_64 generator(1);
  model learner(generator);
  const float accuracy = train(learner, generator);

  const sequences shown(1, generator);
  const matrix x = learner.embedded(shown), logits = learner.logits(shown);
  attention_map::picture map{{}, {}, {}, learner.attention.with_weights(x, x, x).weights[0]};
  std::string given, written;
  attn::index mirrored = 0;
  for (attn::index i = 0; i < length; ++i) {
    attn::index letter = 0, seen = 0;
    logits.row(i).maxCoeff(&letter);
    map.weights.row(i).maxCoeff(&seen);
    if (seen == length - 1 - i) ++mirrored;
    given += static_cast<char>('a' + shown.tokens(i));
    written += static_cast<char>('a' + letter);
    map.tokens.emplace_back(1, given.back());
  }
  std::cout << "\nOf " << given << " it makes " << written
            << ". Where it looks for each letter, a row a place:\n\n"
            << draw(map, attention_map::standard_output()) << "\n"
            << mirrored << " of " << length
            << " rows have their largest weight on the anti-diagonal\n";
  return accuracy > 0.99f && mirrored == length ? 0 : 1;
}
