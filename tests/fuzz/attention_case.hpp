// A call of attention made of bytes: numbers of any kind in any order of memory, lengths, and what
// plain loops need to know of each head.
#pragma once

#include <attn/gradient.hpp>
#include <memory>
#include <numeric>

#include "fuzz/bytes.hpp"
#include "support/generate.hpp"
#include "support/gradient_bounds.hpp"

namespace attn_fuzz {

using namespace attn_test;
using attn::heads_shape, attn::heads_view;
using attn_fuzz::index;

// How the call is made.
enum class form { heads, lengths, packed, one_head, count };

// Heads in any order of memory, with gaps that are full of `gap`.
template <class T>
class tensor {
 public:
  tensor() = default;
  tensor(bytes& in, const heads_shape& n, T gap) {
    std::array<int, 4> order{0, 1, 2, 3};
    for (int turns = in.byte() % 24; turns > 0; --turns) {
      std::next_permutation(order.begin(), order.end());
    }
    const std::uint8_t gaps = in.byte();
    const index extents[] = {n.width, n.length, n.heads, n.batch};
    index strides[4] = {}, step = 1;
    for (const int dimension : order) {
      step += (gaps >> (2 * dimension)) & 3;
      strides[dimension] = step;
      step *= std::max<index>(1, extents[dimension]);
    }
    size_ = n.size() == 0 ? 0 : 1;
    for (int i = 0; i < 4 && size_ > 0; ++i) size_ += (extents[i] - 1) * strides[i];
    memory_ = std::make_unique<T[]>(static_cast<std::size_t>(size_));
    std::fill_n(memory_.get(), size_, gap);
    view_ = {memory_.get(), n, {strides[3], strides[2], strides[1], strides[0]}};
  }

  [[nodiscard]] const heads_view<T>& view() const { return view_; }
  [[nodiscard]] heads_view<const T> read() const { return view_; }
  [[nodiscard]] std::vector<T> memory() const { return {memory_.get(), memory_.get() + size_}; }

  template <class F>
  void fill(const F& number) {
    const heads_shape& n = view_.shape();
    for (index b = 0; b < n.batch; ++b) {
      for (index h = 0; h < n.heads; ++h) {
        for (index i = 0; i < n.length; ++i) {
          for (index c = 0; c < n.width; ++c) view_(b, h, i, c) = number();
        }
      }
    }
  }
  // Whether nothing but the elements was written to.
  [[nodiscard]] bool gaps_hold(T gap) const {
    std::vector<T> all = memory();
    for (index e = 0; e < view_.shape().size(); ++e) {
      all[static_cast<std::size_t>(&at(e) - memory_.get())] = gap;
    }
    return std::all_of(all.begin(), all.end(), [&](T x) { return x == gap; });
  }
  // The n-th element, in the order of the shape.
  [[nodiscard]] T& at(index n) const {
    const heads_shape& s = view_.shape();
    return view_(n / (s.width * s.length * s.heads), n / (s.width * s.length) % s.heads,
                 n / s.width % s.length, n % s.width);
  }

 private:
  std::unique_ptr<T[]> memory_;
  index size_ = 0;
  heads_view<T> view_;
};

template <class T>
T special_number(bytes& in) {
  using limits = std::numeric_limits<T>;
  static const T numbers[] = {limits::quiet_NaN(),
                              limits::infinity(),
                              -limits::infinity(),
                              limits::max(),
                              -limits::max(),
                              limits::min(),
                              limits::denorm_min(),
                              T(-0.0),
                              T(1e30),
                              T(-1e4),
                              T(1e-30),
                              limits::lowest() / 2};
  return in.one_of<T>(numbers);
}

// Numbers of one size, and a few that stand out.
template <class T>
void fill(tensor<T>& t, bytes& in, generator& g) {
  using limits = std::numeric_limits<T>;
  const std::uint8_t kind = in.byte();
  const double sizes[] = {
      1, 1, 8, 0.01, 100, 4, std::sqrt(double{limits::max()}), 1e4 * double{limits::min()}};
  const double size = sizes[kind & 7];
  const bool whole = (kind & 7) == 5;
  t.fill([&] {
    const double x = g.uniform(-size, size);
    return static_cast<T>(whole ? std::round(x) : x);
  });
  for (int n = kind >> 6; n > 0 && t.view().shape().size() > 0; --n) {
    const index at = (index{256} * in.byte() + in.byte()) % t.view().shape().size();
    t.at(at) = special_number<T>(in);
  }
}

inline index any_length(bytes& in) {
  static constexpr index edges[] = {15, 16, 17, 31, 32,  33,  47,  48,  49, 63,
                                    64, 65, 96, 97, 127, 128, 129, 130, 257};
  const std::uint8_t n = in.byte();
  return n < 200 ? n % 11 : edges[(n - 200) % std::ssize(edges)];
}
inline index any_width(bytes& in) {
  static constexpr index edges[] = {15, 16, 17, 31, 33, 64, 65, 80, 129};
  const std::uint8_t n = in.byte();
  return n < 200 ? n % 10 : edges[(n - 200) % std::ssize(edges)];
}

struct range {
  index first = 0, count = 0;
};

template <class T>
class attention_case {
 public:
  bytes& in;
  generator g;
  form how;
  heads_shape n;  // of query
  index key_heads, keys, value_width;
  tensor<T> q, k, v, out, log_sum_exp, weights, out_gradient, log_sum_exp_gradient;
  std::vector<int> query_lengths, key_lengths;
  std::vector<std::int64_t> query_starts, key_starts;
  std::vector<T> sinks;
  attn::options options;
  bool wants_sums = false, wants_weights = false;
  // What the mask and the score change mean.
  index mask = -1;
  std::function<bool(place)> visible = nullptr;
  std::function<double(place)> bias = nullptr;
  score_change<T> change = {}, derivative = {};

  explicit attention_case(bytes& given)
      : in(given), g(in.word()), how(static_cast<form>(in.byte() % int(form::count))) {
    choose_shape();
    const T gap = std::numeric_limits<T>::quiet_NaN();
    const heads_shape keys_of{n.batch > 1 && in.byte() % 8 == 1 ? 1 : n.batch, key_heads, keys,
                              n.width};
    q = tensor<T>(in, n, gap);
    k = tensor<T>(in, keys_of, gap);
    v = tensor<T>(in, {keys_of.batch, key_heads, keys, value_width}, gap);
    for (tensor<T>* t : {&q, &k, &v}) fill(*t, in, g);
    out = result(value_width);
    choose_lengths();
    choose_options();
  }

  [[nodiscard]] index sequences() const {
    return how == form::packed ? std::ssize(query_starts) - 1 : n.batch;
  }
  [[nodiscard]] bool padded_on_the_left() const { return options.padding == attn::padding::left; }
  [[nodiscard]] range queries(index b) const {
    return range_of(b, n.length, query_starts, query_lengths);
  }
  [[nodiscard]] range keys_of(index b) const { return range_of(b, keys, key_starts, key_lengths); }
  // For messages.
  [[nodiscard]] std::string text() const {
    const auto list = [](const auto& numbers) {
      std::string all;
      for (const auto x : numbers) all += " " + std::to_string(x);
      return all;
    };
    return std::string(sizeof(T) == 4 ? "float" : "double") + ", " +
           std::string(attn::to_string(attn::instruction_set())) + ", form " +
           std::to_string(static_cast<int>(how)) + ", mask " + std::to_string(mask) + ", query " +
           to_text(n) + ", key " + to_text(k.view().shape()) + ", value " +
           to_text(v.view().shape()) + ", lengths" + list(query_lengths) + " and" +
           list(key_lengths) + (padded_on_the_left() ? " padded on the left" : "") + ", starts" +
           list(query_starts) + " and" + list(key_starts) + ", offset " +
           std::to_string(options.alignment.offset(n.length, keys)) + ", dropout " +
           std::to_string(options.dropout.probability) + ", scale " +
           (options.scale ? attn::detail::to_text(*options.scale) : "by default") + ", sinks " +
           (options.sink.size() < 0 ? attn::detail::to_text(options.sink.of(0)) : list(sinks)) +
           (options.reproducible ? ", reproducible" : "") + (wants_sums ? ", sums" : "") +
           (wants_weights ? ", weights" : "");
  }

  // Rows of a head of a tensor that has a sequence for each of the batch, or one for all.
  [[nodiscard]] static auto rows(const tensor<T>& t, index b, index h, range i) {
    return t.view().tokens(i.first, i.count).head(t.view().batch() == 1 ? 0 : b, h);
  }
  [[nodiscard]] index key_head(index h) const { return h * key_heads / n.heads; }

  // One head of one sequence for plain loops.
  [[nodiscard]] gradient_problem<T> problem_of(index b, index h) const {
    const range i = queries(b), j = keys_of(b);
    const index from = how == form::packed ? 0 : b;
    gradient_problem<T> one;
    problem<T>& p = one.forward;
    p.q = rows(q, from, h, i);
    p.k = rows(k, from, key_head(h), j);
    p.v = rows(v, from, key_head(h), j);
    p.scale = options.scale;
    p.offset = options.alignment.offset(i.count, j.count);
    p.visible = visible;
    p.bias = bias;
    p.change = change;
    if (options.sink.size() < 0) p.sink = options.sink.of(0);
    if (options.sink.size() >= 0) p.sink = options.sink.of(h);
    p.head = h;
    p.batch = b;
    one.derivative = derivative;
    if (options.dropout.probability > 0) {
      one.kept = [this](place at) {
        const auto narrow = [](index x) { return static_cast<std::int32_t>(x); };
        return attn::dropout_factor(options.dropout, {.batch = narrow(at.batch),
                                                      .head = narrow(at.head),
                                                      .row = narrow(at.row),
                                                      .query = narrow(at.query),
                                                      .key = narrow(at.key)});
      };
    }
    return one;
  }

  // For results, full of a number that nothing computes by chance.
  [[nodiscard]] tensor<T> result(index width) {
    heads_shape shape = n;
    shape.width = width;
    return tensor<T>(in, shape, untouched);
  }
  static constexpr T untouched = T(-12345.5);

 private:
  [[nodiscard]] range range_of(index b, index length, const std::vector<std::int64_t>& starts,
                               const std::vector<int>& lengths) const {
    const auto at = static_cast<std::size_t>(b);
    if (!starts.empty()) {
      return {static_cast<index>(starts[at]), static_cast<index>(starts[at + 1] - starts[at])};
    }
    const index count = lengths.empty() ? length : lengths[at];
    return {padded_on_the_left() ? length - count : 0, count};
  }

  void choose_shape() {
    const bool one = how == form::one_head;
    n.batch = one || how == form::packed ? 1 : in.between(1, 3);
    key_heads = one ? 1 : in.between(1, 2);
    n.heads = one ? 1 : key_heads * in.between(1, 3);
    n.length = any_length(in);
    keys = any_length(in);
    n.width = any_width(in);
    value_width = any_width(in);
    // Plain loops in long double take their time.
    if (n.batch * n.heads * n.length * keys * (n.width + value_width + 4) <= 40'000) return;
    n.length = std::min<index>(n.length, 17);
    n.width = std::min<index>(n.width, 17);
    value_width = std::min<index>(value_width, 17);
    if (n.batch * n.heads > 2) keys = std::min<index>(keys, 130);
  }

  void choose_lengths() {
    const auto starts = [&](index tokens, index count) {
      std::vector<std::int64_t> cuts{0, tokens};
      for (index b = 1; b < count; ++b) cuts.push_back(in.byte() % (tokens + 1));
      std::sort(cuts.begin(), cuts.end());
      return cuts;
    };
    if (how == form::packed) {
      const index count = in.between(1, 4);
      query_starts = starts(n.length, count);
      key_starts = starts(keys, count);
    }
    if (how != form::lengths) return;
    const std::uint8_t which = in.byte();
    if ((which & 4) != 0 && (which & 3) != 0) options.padding = attn::padding::left;
    for (index b = 0; b < n.batch; ++b) {
      if ((which & 1) != 0)
        query_lengths.push_back(static_cast<int>(n.length - in.byte() % (n.length + 1)));
      if ((which & 2) != 0) key_lengths.push_back(static_cast<int>(keys - in.byte() % (keys + 1)));
    }
  }

  void choose_options() {
    const std::uint8_t what = in.byte();
    options.reproducible = (what & 1) != 0;
    if ((what & 2) != 0) {
      options.executor = [](attn::index tasks, auto each) {
        for (attn::index i = tasks; i-- > 0;) each(i);
      };
    }
    static attn::workspace kept;
    if ((what & 4) != 0) options.workspace = &kept;
    wants_sums = (what & 8) != 0;
    wants_weights = (what & 16) != 0 && how != form::packed;
    if (wants_sums) log_sum_exp = result(1);
    if (wants_weights) weights = result(keys);
    if ((what & 32) != 0)
      options.dropout = {.probability = in.flag() ? 0.3 : 0.9, .seed = in.word()};
    static constexpr double scales[] = {0, -0.4, 0.7, 1, 40, 1e30, -1e-38, 1e-42, 2};
    if ((what & 64) != 0) options.scale = in.one_of<double>(scales);
    if ((what & 128) != 0) choose_sinks();
    const attn::alignment alignments[] = {attn::top_left, attn::bottom_right,
                                          attn::offset(in.between(0, 255) - 128)};
    options.alignment = in.one_of<attn::alignment>(alignments);
    if (!query_lengths.empty()) options.query_lengths = query_lengths;
    if (!key_lengths.empty()) options.key_lengths = key_lengths;
  }

  void choose_sinks() {
    static constexpr double logits[] = {0.5, -3, 1000, -1000, 1e30};
    if (in.flag()) {
      options.sink = in.one_of<double>(logits);
      return;
    }
    for (index h = 0; h < n.heads; ++h) sinks.push_back(static_cast<T>(in.one_of<double>(logits)));
    options.sink = sinks;
  }
};

}  // namespace attn_fuzz
