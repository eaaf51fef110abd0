// Names to workloads, seeded inputs, and the reference.
#include "workload.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <sstream>
#include <stdexcept>
#include <utility>

namespace bench {
namespace {

constexpr std::array<std::pair<std::string_view, feature>, 16> features = {{
    {"none", feature::none},
    {"causal", feature::causal},
    {"window256", feature::window256},
    {"additive", feature::additive},
    {"boolean", feature::boolean},
    {"alibi", feature::alibi},
    {"lambda", feature::lambda},
    {"softcap", feature::softcap},
    {"column_major", feature::column_major},
    {"blhd", feature::blhd},
    {"contiguous", feature::contiguous},
    {"paged16", feature::paged16},
    {"scattered16", feature::scattered16},
    {"dropout", feature::dropout},
    {"bias", feature::bias},
    {"bias_gradient", feature::bias_gradient},
}};

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

/// "8:2" is (8, 2), "8" is (8, 8).
std::pair<index, index> one_or_two(const std::string& text) {
  const std::size_t colon = text.find(':');
  const index first = std::stol(text);
  return {first, colon == std::string::npos ? first : std::stol(text.substr(colon + 1))};
}

constexpr double hidden = -std::numeric_limits<double>::infinity();

/// What the feature makes of the scaled score of row i and key j; -inf where it hides the key.
template <class Scalar>
double changed(const workload& w, const inputs<Scalar>& in, double s, index i, index j) {
  const index p = w.position(i);
  switch (w.feature) {
    case feature::none:
    case feature::column_major:
    case feature::blhd:
    case feature::contiguous:
    case feature::paged16:
    case feature::scattered16:
    case feature::dropout:
      return s;
    case feature::causal:
      return j <= p ? s : hidden;
    case feature::window256:
      return p - window <= j && j <= p ? s : hidden;
    case feature::additive:
    case feature::bias:
    case feature::bias_gradient:
      return s + double{in.bias(i, j)};
    case feature::boolean:
      return in.visible(i, j) ? s : hidden;
    case feature::alibi:
    case feature::lambda:
      return s - slope * static_cast<double>(std::abs(p - j));
    case feature::softcap:
      return cap * std::tanh(s / cap);
  }
  return s;
}

template <class Scalar>
void fill_with_normal_numbers(Scalar* first, index n, std::mt19937& generator) {
  std::normal_distribution<Scalar> normal;
  std::generate_n(first, n, [&] { return normal(generator); });
}

/// What dropout multiplies the weight of key j by.
double kept(const workload& w, index head, index row, index j) {
  if (w.feature != feature::dropout) return 1;
  const auto narrow = [](index n) { return static_cast<std::int32_t>(n); };
  return attn::dropout_factor(dropped, {narrow(head / w.heads), narrow(head % w.heads), narrow(row),
                                        narrow(w.position(row)), narrow(j)});
}

/// dq = scale Σ_j P_j (<dO, v_j> - Σ P <dO, v>) k_j for a row, where dO is the query.
template <class Scalar>
void add_query_gradient(const workload& w, const inputs<Scalar>& in, index head, index row,
                        reference_row& result) {
  const index key_head = w.key_head(head);
  std::vector<double> products(result.softmax.size());
  double mean = 0;
  for (index j = 0; j < w.keys; ++j) {
    const auto n = static_cast<std::size_t>(j);
    for (index c = 0; c < w.width; ++c) {
      products[n] += double{in.query(head, row, c)} * double{in.value(key_head, j, c)};
    }
    products[n] *= kept(w, head, row, j);
    mean += result.softmax[n] * products[n];
  }
  result.query_gradient.assign(static_cast<std::size_t>(w.width), 0);
  for (index j = 0; j < w.keys; ++j) {
    const auto n = static_cast<std::size_t>(j);
    const double gradient = result.softmax[n] * (products[n] - mean);
    for (index c = 0; c < w.width; ++c) {
      result.query_gradient[static_cast<std::size_t>(c)] +=
          gradient * double{in.key(key_head, j, c)} / std::sqrt(static_cast<double>(w.width));
    }
  }
}

}  // namespace

workload parse(const std::string& name) {
  const std::vector<std::string> parts = split(name, '/');
  if (parts.size() != 5) throw std::invalid_argument("not a benchmark's name: " + name);
  const std::vector<std::string> sizes = split(parts[2], 'x');
  const auto* const known =
      std::ranges::find(features, parts[3], &std::pair<std::string_view, feature>::first);
  if (sizes.size() != 4 || known == features.end()) {
    throw std::invalid_argument("unknown sizes or feature in the benchmark's name: " + name);
  }
  workload w;
  w.name = name;
  w.what = parts[0];
  w.type = parts[1];
  w.batch = std::stol(sizes[0]);
  std::tie(w.heads, w.key_heads) = one_or_two(sizes[1]);
  std::tie(w.queries, w.keys) = one_or_two(sizes[2]);
  w.width = std::stol(sizes[3]);
  w.feature = known->second;
  w.threads = std::stoi(parts[4].substr(parts[4].find(':') + 1));
  return w;
}

template <class Scalar>
tensor<Scalar>::tensor(const attn::heads_shape& shape, feature layout)
    : data_(nullptr, &std::free) {
  constexpr std::size_t line = 64;
  const std::size_t bytes = static_cast<std::size_t>(shape.size()) * sizeof(Scalar);
  data_.reset(static_cast<Scalar*>(std::aligned_alloc(line, (bytes + line - 1) / line * line)));
  const index head = shape.length * shape.width;
  if (layout == feature::blhd) {
    view_ = attn::blhd(data_.get(), shape);
  } else if (layout == feature::column_major) {
    view_ = {data_.get(), shape, {shape.heads * head, head, 1, shape.length}};
  } else {
    view_ = attn::bhld(data_.get(), shape);
  }
}

template <class Scalar>
inputs<Scalar>::inputs(const workload& w)
    : query({w.batch, w.heads, w.queries, w.width}, w.feature),
      key({w.batch, w.key_heads, w.keys, w.width}, w.feature),
      value({w.batch, w.key_heads, w.keys, w.width}, w.feature) {
  std::mt19937 generator(1);
  for (tensor<Scalar>* t : {&query, &key, &value}) {
    fill_with_normal_numbers(t->data(), t->size(), generator);
  }
  if (w.feature == feature::additive || w.feature == feature::bias ||
      w.feature == feature::bias_gradient) {
    bias.resize(w.queries, w.keys);
    fill_with_normal_numbers(bias.data(), bias.size(), generator);
  }
  if (w.feature == feature::boolean) {
    visible.resize(w.queries, w.keys);
    std::generate_n(visible.data(), visible.size(), [&] { return generator() % 64 != 0; });
  }
}

template <class Scalar>
const inputs<Scalar>& inputs_of(const workload& w) {
  static std::unique_ptr<inputs<Scalar>> kept;
  static std::string kept_for;
  const std::string wanted = w.name.substr(w.name.find('/'), w.name.rfind('/') - w.name.find('/'));
  if (kept_for != wanted) {
    kept.reset();  // before the next ones: both may be large
    kept = std::make_unique<inputs<Scalar>>(w);
    kept_for = wanted;
  }
  return *kept;
}

template <class Scalar>
double visible_pairs(const workload& w, const inputs<Scalar>& in) {
  std::int64_t pairs = 0;
  for (index i = 0; i < w.queries; ++i) {
    for (index j = 0; j < w.keys; ++j) pairs += changed(w, in, 0, i, j) != hidden ? 1 : 0;
  }
  return static_cast<double>(pairs);
}

template <class Scalar>
reference_row reference(const workload& w, const inputs<Scalar>& in, index head, index row) {
  const index key_head = w.key_head(head);
  const auto keys = static_cast<std::size_t>(w.keys);
  reference_row result{std::vector<double>(keys), {}, {}, {}, {}, {}};
  for (index j = 0; j < w.keys; ++j) {
    double product = 0;
    for (index c = 0; c < w.width; ++c) {
      product += double{in.query(head, row, c)} * double{in.key(key_head, j, c)};
    }
    result.score[static_cast<std::size_t>(j)] = product;
  }
  double most = hidden;
  for (index j = 0; j < w.keys; ++j) {
    const double scaled =
        result.score[static_cast<std::size_t>(j)] / std::sqrt(static_cast<double>(w.width));
    result.scale.push_back(scaled);
    result.mask.push_back(changed(w, in, scaled, row, j));
    most = std::max(most, result.mask.back());
  }
  double sum = 0;
  for (const double s : result.mask) {
    result.softmax.push_back(std::exp(s - most));
    sum += result.softmax.back();
  }
  for (double& p : result.softmax) p /= sum;
  for (index c = 0; c < w.width; ++c) {
    double out = 0;
    for (index j = 0; j < w.keys; ++j) {
      out += kept(w, head, row, j) * result.softmax[static_cast<std::size_t>(j)] *
             double{in.value(key_head, j, c)};
    }
    result.weighted_sum.push_back(out);
  }
  add_query_gradient(w, in, head, row, result);
  return result;
}

template class tensor<float>;
template class tensor<double>;
template class tensor<bool>;
template struct inputs<float>;
template struct inputs<double>;
template const inputs<float>& inputs_of(const workload&);
template const inputs<double>& inputs_of(const workload&);
template double visible_pairs(const workload&, const inputs<float>&);
template double visible_pairs(const workload&, const inputs<double>&);
template reference_row reference(const workload&, const inputs<float>&, index, index);
template reference_row reference(const workload&, const inputs<double>&, index, index);

}  // namespace bench
