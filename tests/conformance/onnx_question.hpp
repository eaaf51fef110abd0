// Questions to the ONNX operator Attention, made of seeded numbers, and what plain loops make of
// them: masks are read as NumPy broadcasts, scores and rows worked out one by one.
#pragma once

#include <attn/onnx_attention.hpp>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "heads/support.hpp"

namespace attn_test {

using attn::heads_array;
using attn::heads_order;
using attn::heads_shape;
using attn::heads_view;

inline constexpr double infinity = std::numeric_limits<double>::infinity();

enum class mask_type { none, booleans, floats, doubles, ints, longs };
enum class cache { none, past, nonpad };

struct setting {
  index batch = 2, heads = 4, key_heads = 2, queries = 5, keys = 7, d = 6, dv = 3;
  heads_order order = heads_order::bhld;
  cache kind = cache::none;
  index past = 0;
  mask_type mask = mask_type::none;
  std::vector<index> mask_shape = {};
  attn::onnx_attention_attributes attributes = {};

  index all_keys() const { return past + keys; }
};

// A mask as numbers: of booleans 0 and 1.
struct mask_numbers {
  mask_type type;
  std::vector<index> shape;
  std::vector<double> values;

  // By the rule of NumPy, extents counted from the last; what lies beyond a short last extent is
  // hidden.
  double bias(index b, index h, index i, index j) const {
    if (type == mask_type::none) return 0;
    const index at[] = {b, h, i, j};
    index n = 0;
    for (std::size_t axis = 0; axis < shape.size(); ++axis) {
      const bool last = axis + 1 == shape.size();
      const index place = at[4 - shape.size() + axis];
      if (last && place >= shape[axis]) return -infinity;
      n = n * shape[axis] + (shape[axis] == 1 ? 0 : place);
    }
    const double x = values[static_cast<std::size_t>(n)];
    return type != mask_type::booleans ? x : x != 0 ? 0 : -infinity;
  }
};

inline mask_numbers any_mask_numbers(generator& g, const setting& s) {
  mask_numbers mask{s.mask, s.mask_shape, {}};
  index size = 1;
  for (const index extent : s.mask_shape) size *= extent;
  for (index n = 0; n < size; ++n) {
    const bool whole = s.mask == mask_type::ints || s.mask == mask_type::longs;
    mask.values.push_back(s.mask == mask_type::booleans ? (g.chance(0.6) ? 1 : 0)
                          : whole                       ? static_cast<double>(g.between(-3, 3))
                          : g.chance(0.2)               ? -infinity
                                          : static_cast<double>(g.between(-32, 32)) / 16);
  }
  return mask;
}

// The memory of a mask whose elements are E.
template <class E>
heads_array<E> mask_memory(const mask_numbers& mask) {
  heads_array<E> memory({1, 1, 1, std::ssize(mask.values)});
  for (index n = 0; n < std::ssize(mask.values); ++n) {
    memory.data()[n] = static_cast<E>(mask.values[static_cast<std::size_t>(n)]);
  }
  return memory;
}

// Numbers of a setting and what the plain loops make of them.
template <class T>
struct question {
  using S = attn::accumulator_t<T>;

  question(generator& g, const setting& with)
      : s(with),
        q(any_heads<T>(g, {s.batch, s.heads, s.queries, s.d}, s.order)),
        k(any_heads<T>(g, {s.batch, s.key_heads, s.keys, s.d}, s.order)),
        v(any_heads<T>(g, {s.batch, s.key_heads, s.keys, s.dv}, s.order)),
        past_k(any_heads<T>(g, {s.batch, s.key_heads, s.past, s.d})),
        past_v(any_heads<T>(g, {s.batch, s.key_heads, s.past, s.dv})),
        mask(any_mask_numbers(g, s)),
        booleans(mask_memory<bool>(mask)),
        floats(mask_memory<float>(mask)),
        doubles(mask_memory<double>(mask)) {
    for (index b = 0; b < s.batch; ++b) lengths.push_back(g.between(0, s.keys));
    if (s.mask == mask_type::ints) ints = mask_memory<std::int32_t>(mask);
    if (s.mask == mask_type::longs) longs = mask_memory<std::int64_t>(mask);
  }

  attn::onnx_attention_inputs<T> inputs() const {
    attn::onnx_attention_inputs<T> given;
    const auto use = [&](const auto& memory) {
      given.attn_mask = attn::onnx_mask(memory.data(), s.mask_shape);
    };
    if (s.mask == mask_type::booleans) use(booleans);
    if (s.mask == mask_type::floats) use(floats);
    if (s.mask == mask_type::doubles) use(doubles);
    if (s.mask == mask_type::ints) use(ints);
    if (s.mask == mask_type::longs) use(longs);
    if (s.kind == cache::nonpad) given.nonpad_kv_seqlen = lengths;
    if (s.kind == cache::past) {
      given.past_key = past_k.view();
      given.past_value = past_v.view();
    }
    return given;
  }

  index length(index b) const {
    return s.kind == cache::nonpad ? static_cast<index>(lengths[static_cast<std::size_t>(b)])
                                   : s.all_keys();
  }
  index offset(index b) const { return s.kind == cache::nonpad ? length(b) - s.queries : s.past; }
  T key(index b, index h, index j, index c) const {
    return j < s.past ? past_k(b, h, j, c) : k(b, h, j - s.past, c);
  }
  T value(index b, index h, index j, index c) const {
    return j < s.past ? past_v(b, h, j, c) : v(b, h, j - s.past, c);
  }
  bool visible(index b, index p, index j) const {
    const auto& a = s.attributes;
    return j < length(b) && (!a.is_causal || j <= p) &&
           (a.left_window_size < 0 || j >= p - a.left_window_size) &&
           (a.right_window_size < 0 || j <= p + a.right_window_size);
  }

  problem<T> of_head(index b, index h) const {
    const index from = h * s.key_heads / s.heads;
    problem<T> p{matrix<T>(s.queries, s.d), matrix<T>(s.all_keys(), s.d),
                 matrix<T>(s.all_keys(), s.dv)};
    p.q = q.head(b, h);
    for (index j = 0; j < s.all_keys(); ++j) {
      for (index c = 0; c < s.d; ++c) p.k(j, c) = key(b, from, j, c);
      for (index c = 0; c < s.dv; ++c) p.v(j, c) = value(b, from, j, c);
    }
    p.scale = s.attributes.scale;
    p.offset = offset(b);
    p.visible = [this, b](place at) { return visible(b, at.query, at.key); };
    p.bias = [this, b, h](place at) { return mask.bias(b, h, at.row, at.key); };
    if (s.attributes.softcap > 0) {
      p.change = [cap = s.attributes.softcap]<class Number>(Number x, place) {
        return static_cast<Number>(cap) * std::tanh(x / static_cast<Number>(cap));
      };
    }
    return p;
  }

  setting s;
  heads_array<T> q, k, v, past_k, past_v;
  mask_numbers mask;
  heads_array<bool> booleans;
  heads_array<float> floats;
  heads_array<double> doubles;
  heads_array<std::int32_t> ints;
  heads_array<std::int64_t> longs;
  std::vector<std::int64_t> lengths;
};

// A score of one head, and how far from it a good one may be: each step of the dot product and what
// follows errs by half an eps of what it has summed, and a softcap makes errors no larger.
struct expected_score {
  long double value, error;
};
template <class T>
expected_score score_at(const problem<T>& p, index i, index j, int mode) {
  using S = accumulator<T>;
  const index d = p.q.cols();
  const double factor = p.scale ? *p.scale : d == 0 ? 1 : 1 / std::sqrt(static_cast<double>(d));
  long double s = 0, magnitude = 0;
  for (index c = 0; c < d; ++c) {
    const auto x = static_cast<long double>(static_cast<S>(p.q(i, c))) *
                   static_cast<long double>(static_cast<S>(p.k(j, c)));
    s += x;
    magnitude += std::abs(x);
  }
  s *= factor;
  magnitude *= std::abs(factor);
  const place at{i, i + p.offset, j};
  if (mode >= 1 && p.change) {
    if constexpr (std::is_same_v<wide<T>, double>) {
      s = p.change(static_cast<double>(s), at);
    } else {
      s = p.change(s, at);
    }
  }
  if (mode == 2) {
    const double bias = p.bias(at);
    constexpr long double lowest = -std::numeric_limits<long double>::infinity();
    if (!p.visible(at) || bias == -infinity) return {lowest, 0};
    s += bias;
    magnitude += std::abs(bias);
  }
  constexpr index further_steps = 8;  // the scale, the softcap with its tanh, the bias
  return {s, tolerance::reordered_sum<S>(d + further_steps, static_cast<double>(magnitude))};
}

template <class T, class Found>
void check_scores(const problem<T>& p, const Found& found, int mode) {
  REQUIRE(found.rows() == p.q.rows());
  REQUIRE(found.cols() == p.k.rows());
  for (index i = 0; i < found.rows(); ++i) {
    for (index j = 0; j < found.cols(); ++j) {
      const expected_score expected = score_at(p, i, j, mode);
      const auto x = static_cast<long double>(found(i, j));
      if (x == expected.value || std::abs(x - expected.value) <= expected.error) continue;
      FAIL_CHECK("score (" << i << ", " << j << ") of mode " << mode << " is " << x << ", expected "
                           << expected.value << " +- " << expected.error);
    }
  }
}

// One head of what the operator gave. Its rows are few, and the plain formula may happen to be
// exact for them: what it may err by is told from the scores.
template <class T>
void check_head(const question<T>& x, const attn::onnx_attention_outputs<T>& found, index b,
                index h, int mode) {
  using Wide = wide<T>;
  using Narrow = accumulator<T>;
  CAPTURE(b, h, mode);
  const problem<T> p = x.of_head(b, h);
  const answer<Wide> exact = evaluate<Wide>(p);
  constexpr Wide largest_value = 1.5;  // of any_heads
  const Wide error = tolerance::unmeasured(static_cast<Narrow>(exact.largest_score));
  const Wide rounding = std::ldexp(Wide(1), -std::numeric_limits<T>::digits);
  const auto everywhere = [](const matrix<Wide>& like, Wide allowed) -> matrix<Wide> {
    return matrix<Wide>::Constant(like.rows(), like.cols(), allowed);
  };
  CHECK(disagreement("y", exact.out, everywhere(exact.out, largest_value * (error + rounding)),
                     found.y.head(b, h), false) == "");
  const auto scores = found.qk_matmul_output.head(b, h);
  if (mode == 3) {
    CHECK(disagreement("weights", exact.weights, everywhere(exact.weights, error), scores, false) ==
          "");
  } else {
    check_scores(p, scores, mode);
  }
}

template <class T>
void check_presents(const question<T>& x, const attn::onnx_attention_outputs<T>& found) {
  const setting& s = x.s;
  if (s.kind != cache::past) {
    CHECK(found.present_key.shape().size() == 0);
    CHECK(found.present_value.shape().size() == 0);
    return;
  }
  REQUIRE(found.present_key.shape() == heads_shape{s.batch, s.key_heads, s.all_keys(), s.d});
  REQUIRE(found.present_value.shape() == heads_shape{s.batch, s.key_heads, s.all_keys(), s.dv});
  REQUIRE(found.present_key.order() == heads_order::bhld);
  bool same = true;
  for (index b = 0; b < s.batch; ++b) {
    for (index h = 0; h < s.key_heads; ++h) {
      for (index j = 0; j < s.all_keys(); ++j) {
        for (index c = 0; c < s.d; ++c) {
          same = same && found.present_key(b, h, j, c) == x.key(b, h, j, c);
        }
        for (index c = 0; c < s.dv; ++c) {
          same = same && found.present_value(b, h, j, c) == x.value(b, h, j, c);
        }
      }
    }
  }
  CHECK(same);
}

// The operator with every output that it has.
template <class T>
void check_question(const question<T>& x) {
  const setting& s = x.s;
  CAPTURE(s.batch, s.heads, s.key_heads, s.queries, s.past, s.keys, s.mask_shape);
  CAPTURE(int(s.kind), int(s.mask), s.attributes.is_causal, s.attributes.left_window_size,
          s.attributes.right_window_size, s.attributes.softcap, x.lengths);
  attn::onnx_attention_attributes attributes = s.attributes;
  const auto plain = attn::onnx_attention(x.q, x.k, x.v, attributes, x.inputs());
  CHECK(plain.qk_matmul_output.shape().size() == 0);
  if (s.heads > 1 && s.queries > 1) CHECK(plain.y.order() == s.order);
  check_presents(x, plain);
  for (int mode = 0; mode <= 3; ++mode) {
    attributes.qk_matmul_output_mode = mode;
    const auto found = attn::onnx_attention(x.q, x.k, x.v, attributes, x.inputs());
    for (index b = 0; b < s.batch; ++b) {
      for (index h = 0; h < s.heads; ++h) {
        check_head(x, found, b, h, mode);
        if (mode < 3) CHECK(same_bits(found.y.head(b, h), plain.y.head(b, h)));
      }
    }
  }
}

template <class T>
void check_setting(std::uint64_t seed, const setting& s) {
  generator g(seed);
  check_question(question<T>(g, s));
}

// One of everything, in all combinations that the operator allows.
inline setting any_setting(generator& g) {
  setting s;
  s.key_heads = g.between(1, 3);
  s.heads = s.key_heads * g.between(1, 3);
  s.batch = g.between(1, 3);
  s.queries = g.between(1, 6);
  s.keys = g.between(1, 20);
  s.d = g.between(1, 9);
  s.dv = g.between(1, 9);
  s.order = g.one_of<heads_order>({heads_order::bhld, heads_order::blhd});
  s.kind = g.one_of<cache>({cache::none, cache::past, cache::nonpad});
  if (s.kind == cache::past) s.past = g.between(0, 9);
  s.mask = g.one_of<mask_type>({mask_type::none, mask_type::booleans, mask_type::floats,
                                mask_type::doubles, mask_type::ints, mask_type::longs});
  const index width = g.chance(0.5) ? s.all_keys() : g.between(1, s.all_keys());
  s.mask_shape = {g.chance(0.5) ? s.batch : 1, g.chance(0.5) ? s.heads : 1,
                  g.chance(0.5) ? s.queries : 1, width};
  s.mask_shape.erase(s.mask_shape.begin(), s.mask_shape.begin() + g.between(0, 3));
  auto& a = s.attributes;
  a.is_causal = g.chance(0.5);
  a.left_window_size = g.one_of<index>({-1, -1, 0, 1, 4});
  a.right_window_size = g.one_of<index>({-1, -1, 0, 2});
  a.softcap = g.one_of<double>({0, 0, 0.5, 3});
  a.scale = g.one_of<std::optional<double>>({std::nullopt, 1.0, 0.0, -0.75});
  return s;
}

}  // namespace attn_test
