// The one call, forward and back, on any shapes, memory, masks, score changes and options: as far
// from plain loops as rounding explains and no farther, and what is bad is refused.
#include "fuzz/attention_backward.hpp"

namespace attn_fuzz {
namespace {

template <class T>
void none_is_wrong(const std::string& text, const call<T>& c, index b, index h) {
  if (text.empty()) return;
  fail(text + " in sequence " + std::to_string(b) + ", head " + std::to_string(h) + ": " +
       c.text());
}

template <class Matrix>
void all_are(const Matrix& m, typename Matrix::Scalar x, std::string_view what) {
  for (index i = 0; i < m.rows(); ++i) {
    for (index j = 0; j < m.cols(); ++j) require(m(i, j) == x, what);
  }
}

template <class T>
void check_forward(const call<T>& c, index b, index h, const bounds<T>& expected) {
  const range i = c.queries(b), j = c.keys_of(b);
  const index from = c.how == form::packed ? 0 : b;
  const auto rows = [&](const tensor<T>& t) { return c.rows(t, from, h, i); };
  const range padding{c.padded_on_the_left() ? 0 : i.count,
                      c.how == form::packed ? 0 : c.n.length - i.count};
  const auto rest = [&](const tensor<T>& t) { return c.rows(t, from, h, padding); };
  none_is_wrong(expected.of_out(rows(c.out)), c, b, h);
  all_are(rest(c.out), T(0), "out beyond a length is not 0");
  if (c.wants_sums) {
    none_is_wrong(expected.of_log_sum_exp(rows(c.log_sum_exp)), c, b, h);
    all_are(rest(c.log_sum_exp), -std::numeric_limits<T>::infinity(),
            "log_sum_exp beyond a length is not -inf");
  }
  if (c.wants_weights && i.count > 0) {
    const matrix<T> weights = rows(c.weights);
    none_is_wrong(expected.of_weights(weights.middleCols(j.first, j.count)), c, b, h);
    all_are(weights.leftCols(j.first), T(0), "a weight of padding");
    all_are(weights.rightCols(c.keys - j.first - j.count), T(0), "a weight beyond a length");
  }
  if (c.wants_weights) all_are(rest(c.weights), T(0), "weights beyond a length");
}

// One thing that is wrong: it must be refused before anything is written.
template <class T, class M, class F>
void check_refusal(const call<T>& c, const M& mask, const F& change) {
  attn::options options = with_outputs(c);
  static constexpr double no_numbers[] = {std::numeric_limits<double>::quiet_NaN(),
                                          std::numeric_limits<double>::infinity()};
  static constexpr double no_probabilities[] = {1, -0.1, std::numeric_limits<double>::quiet_NaN()};
  static constexpr index far[] = {index{1} << 31, -(index{1} << 31),
                                  std::numeric_limits<index>::max(),
                                  std::numeric_limits<index>::min()};
  std::vector<int> lengths(static_cast<std::size_t>(c.n.batch), -1);
  switch (c.in.between(0, 6)) {
    case 0:
      options.scale = c.in.template one_of<double>(no_numbers);
      break;
    case 1:
      options.sink = c.in.template one_of<double>(no_numbers);
      break;
    case 2:
      options.dropout.probability = c.in.template one_of<double>(no_probabilities);
      break;
    case 3:
      options.alignment = attn::offset(c.in.template one_of<index>(far));
      if (c.n.length == 0 && c.keys == 0) return;
      break;
    case 4:
      options.key_lengths = lengths;
      break;
    case 5:
      options.query_lengths = lengths;
      break;
    default:
      options.log_sum_exp = attn::output(c.out.view());
      if (c.value_width == 1 && c.out.view().shape().size() == 0) return;
  }
  require(throws<std::invalid_argument>([&] { forward(c, mask, change, options); }),
          "bad input was not refused");
  for (const T x : c.out.memory()) require(x == call<T>::untouched, "out was written to");
}

template <class T, class M, class F>
void check_all(call<T>& c, const M& mask, const F& change,
               const heads_shape& bias_shape = {1, 1, 0, 0}) {
  const std::uint8_t what = c.in.byte();
  if (what % 16 == 1) return check_refusal(c, mask, change);
  const std::vector<T> before[] = {c.q.memory(), c.k.memory(), c.v.memory()};
  forward(c, mask, change, with_outputs(c));
  for (index b = 0; b < c.sequences(); ++b) {
    for (index h = 0; h < c.n.heads; ++h) {
      const gradient_problem<T> g = c.problem_of(b, h);
      check_forward(c, b, h, bounds<T>(g));
    }
  }
  for (const tensor<T>* t : {&c.out, &c.log_sum_exp, &c.weights}) {
    require(t->gaps_hold(call<T>::untouched), "a result's gaps were written to");
  }
  if (what % 2 == 0) check_backward(c, mask, change, bias_shape);
  const tensor<T>* const inputs[] = {&c.q, &c.k, &c.v};
  for (int n = 0; n < 3; ++n) {
    const std::vector<T> after = inputs[n]->memory();
    require(
        after.empty() || std::memcmp(after.data(), before[n].data(), after.size() * sizeof(T)) == 0,
        "an input was written to");
  }
}

// A mask in memory, with extents of 1 that serve all. It has no rows and columns of padding before
// those of the tokens.
template <class E, class T>
tensor<E> mask_in_memory(call<T>& c) {
  c.options.padding = attn::padding::right;
  const std::uint8_t ones = c.in.byte();
  index longest = c.keys;
  if (c.how == form::packed) {
    longest = 0;
    for (index b = 0; b < c.sequences(); ++b) longest = std::max(longest, c.keys_of(b).count);
  }
  return tensor<E>(c.in,
                   {(ones & 1) != 0 ? 1 : c.sequences(), (ones & 2) != 0 ? 1 : c.n.heads,
                    (ones & 4) != 0 || c.how == form::packed ? 1 : c.n.length, longest},
                   E(1));
}
template <class E>
E element(const heads_view<E>& of, const place& at) {
  const heads_shape& n = of.shape();
  return of(n.batch == 1 ? 0 : at.batch, n.heads == 1 ? 0 : at.head, n.length == 1 ? 0 : at.row,
            at.key);
}

template <class T>
tensor<T> additive(call<T>& c) {
  tensor<T> bias = mask_in_memory<T>(c);
  fill(bias, c.in, c.g);
  const double hidden = c.in.byte() / 300.0;
  for (index e = 0; e < bias.view().shape().size(); ++e) {
    if (c.g.chance(hidden)) bias.at(e) = -std::numeric_limits<T>::infinity();
  }
  c.bias = [view = bias.view()](place at) { return static_cast<double>(element(view, at)); };
  return bias;
}

// A composition of masks of every kind, behind one type.
template <class T>
mask_case any_composed(call<T>& c) {
  index longest = c.keys;
  for (index b = 0; c.how == form::packed && b < c.sequences(); ++b) {
    longest = std::max(b == 0 ? 0 : longest, c.keys_of(b).count);
  }
  std::vector<mask_case> cases = every_mask(c.g, c.n.length, longest);
  // Those in memory do not fit sequences of many lengths, or that are not first.
  if (c.how == form::packed || c.padded_on_the_left()) cases.erase(cases.end() - 4, cases.end());
  return any_composition(c.g, cases, static_cast<int>(c.in.between(0, 2)));
}

template <class T>
any_smooth_change<T> any_change(call<T>& c) {
  using any = any_smooth_change<T>;
  const double cap = c.g.uniform(0.5, 4), slope = c.g.uniform(0.01, 0.1);
  const auto capped = [=](auto s) {
    using Number = decltype(s);
    return static_cast<Number>(cap) * std::tanh(s / static_cast<Number>(cap));
  };
  const auto capped_slope = [=](auto s) {
    const auto t = std::tanh(s / static_cast<decltype(s)>(cap));
    return 1 - t * t;
  };
  const auto tilted = [=](auto s, place at) {
    using Number = decltype(s);
    return s - static_cast<Number>(slope) * static_cast<Number>(std::abs(at.query - at.key));
  };
  const auto one = [](auto s, place) { return decltype(s)(1); };
  switch (c.in.between(0, 4)) {
    case 0:
      c.change = [=](auto s, place) { return capped(s); };
      c.derivative = [=](auto s, place) { return capped_slope(s); };
      return any(attn::softcap(cap));
    case 1:
      c.change = tilted;
      c.derivative = one;
      return any(attn::alibi(slope));
    case 2: {
      const index reach = c.n.length + c.keys + 130;
      const Eigen::VectorXd table = any_matrix<Eigen::VectorXd>(c.g, 2 * reach + 1, 1);
      c.change = [=](auto s, place at) {
        return s + static_cast<decltype(s)>(table(reach + at.key - at.query));
      };
      c.derivative = one;
      return any(attn::relative_bias(Eigen::VectorXd(table)));
    }
    case 3:
      c.change = [=](auto s, place at) { return tilted(capped(s), at); };
      c.derivative = [=](auto s, place) { return capped_slope(s); };
      return any(attn::compose(attn::softcap(cap), attn::alibi(slope)));
    default:
      c.change = [](auto s, place at) { return at.key % 2 == 0 ? -s : s / 2; };
      c.derivative = [](auto s, place at) { return decltype(s)(at.key % 2 == 0 ? -1 : 0.5); };
      return any([](auto s, attn::position at) { return at.key % 2 == 0 ? -s : s / 2; });
  }
}

template <class T>
void run(bytes& in) {
  call<T> c(in);
  const attn::identity same;
  switch (c.mask = in.between(0, 7)) {
    case 0:
      return check_all(c, attn::none(), same);
    case 1:
      c.visible = [](place at) { return at.key <= at.query; };
      return check_all(c, attn::causal(), same);
    case 2: {
      const index left = in.between(0, 60) - 1, right = in.between(0, 60) - 1;
      c.visible = [=](place at) {
        return (left < 0 || at.key >= at.query - left) && (right < 0 || at.key <= at.query + right);
      };
      return check_all(c, attn::sliding_window(left, right), same);
    }
    case 3: {
      tensor<bool> seen = mask_in_memory<bool>(c);
      const double chance = in.byte() / 255.0;
      seen.fill([&] { return c.g.chance(chance); });
      c.visible = [view = seen.view()](place at) { return element(view, at); };
      return check_all(c, attn::as_mask(seen.view()), same);
    }
    case 4: {
      const tensor<T> bias = additive(c);
      return check_all(c, attn::as_mask(bias.view()), same, bias.view().shape());
    }
    case 5: {
      const mask_case mask = any_composed(c);
      c.visible = mask.visible;
      return check_all(c, mask.mask, same);
    }
    case 6: {
      const mask_case mask = any_composed(c);
      c.visible = mask.visible;
      return check_all(c, mask.mask, any_change(c));
    }
    default: {
      const mask_case mask = any_composed(c);
      c.visible = mask.visible;
      const tensor<T> bias = additive(c);
      return check_all(c, mask.mask & attn::as_mask(bias.view()), any_change(c),
                       bias.view().shape());
    }
  }
}

// The sets that this machine runs; with ATTN_INSTRUCTION_SET in the environment that one alone.
std::vector<attn::simd> instruction_sets() {
  if (std::getenv("ATTN_INSTRUCTION_SET") != nullptr) return {attn::instruction_set()};
  std::vector<attn::simd> sets;
  for (const attn::simd set : attn::detail::all_simd) {
    if (attn::detail::is_available(set)) sets.push_back(set);
  }
  return sets;
}

}  // namespace
}  // namespace attn_fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data,  // NOLINT(*-naming): the fuzzer's
                                      std::size_t size) {
  static const std::vector<attn::simd> sets = attn_fuzz::instruction_sets();
  attn_fuzz::bytes in({data, size});
  attn::use_instruction_set(in.one_of<attn::simd>(sets));
  if (in.flag() || !attn_test::long_double_is_wider()) {
    attn_fuzz::run<float>(in);
  } else {
    attn_fuzz::run<double>(in);
  }
  return 0;
}
