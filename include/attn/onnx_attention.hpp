// The ONNX operator Attention (opsets 23 to 25): attributes and optional inputs in; Y, the presents
// and qk_matmul_output out. For programs that come from ONNX only: attn.hpp does not include it.
#pragma once

#include <algorithm>
#include <attn/heads_attention.hpp>
#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <variant>

// Where this differs from the operator:
// - Hidden is inert: NaN and inf in a key or value that is hidden do not reach the row.
// - A row whose scores are all -inf gives 0, whether a mask made them so or not.
// - scale may be any finite number, also 0 and negative ones; it multiplies the finished products.
// - query, key and value have one type. 16-bit types are computed in float and rounded once, at the
//   end; qk_matmul_output keeps the type computed in. For a softmax_precision that is wider than
//   that, cast the inputs.
// - A mask whose last extent is too short is filled up with hidden keys, as since opset 24; an
//   extent of 1 there is too short as well, though opset 23 repeats it. Masks of unsigned, 8- or
//   16-bit integers are not taken: cast them, to bool if that is what they are.
// - The presents are there where there is a past; else they would be key and value.
namespace attn::inline ATTN_ABI {

/// The operator's attributes, by its names. The numbers of heads are told to `onnx_heads`.
///
/// Row i of the query stands at position p = i + offset, where the offset is the length of the
/// past; with nonpad_kv_seqlen it is that less Lq; and else 0, also where Lq and Lk differ.
struct onnx_attention_attributes {
  /// A query at p sees the keys j <= p.
  bool is_causal = false;
  /// A query at p sees the keys j >= p - left_window_size, or all of them for -1.
  index left_window_size = unbounded;
  /// Asks for qk_matmul_output. 0: the scaled products; 1: those after the softcap; 2: after
  /// softcap and mask, -inf where hidden; 3: the weights, which cost the least.
  std::optional<int> qk_matmul_output_mode = std::nullopt;
  /// A query at p sees the keys j <= p + right_window_size, or all of them for -1.
  index right_window_size = unbounded;
  /// What the products of queries and keys are multiplied by; by default 1/√d.
  std::optional<double> scale = std::nullopt;
  /// Bounds the scores before any mask; 0 for none.
  double softcap = 0;
  /// TensorProto's number of a type: 1 (float), 10 (float16), 11 (double) or 16 (bfloat16). Taken
  /// where the type that is computed in is at least as wide; the softmax is computed in that.
  std::optional<int> softmax_precision = std::nullopt;
};

/// attn_mask: nothing, booleans (true = may attend), or numbers that are added to the scores, where
/// -inf hides; integers are numbers. B x H x Lq x (past + Lk) with 1 for any of the first three, or
/// fewer keys: the others are hidden. Of tensors of other ranks `onnx_mask` makes one.
using onnx_attention_mask =
    std::variant<std::monostate, heads_view<const bool>, heads_view<const float>,
                 heads_view<const double>, heads_view<const Eigen::half>,
                 heads_view<const Eigen::bfloat16>, heads_view<const std::int32_t>,
                 heads_view<const std::int64_t>>;

/// The operator's optional inputs, by its names.
template <class T>
struct onnx_attention_inputs {
  onnx_attention_mask attn_mask = {};  ///< see onnx_attention_mask
  /// How many keys each sequence has, where key and value are caches with room beyond; not together
  /// with a past.
  integers nonpad_kv_seqlen = {};
  /// Keys and values before those of the call, B x Hk x past x width: both or none. An empty past
  /// is one too: it asks for the presents.
  std::optional<heads_view<const T>> past_key = std::nullopt;
  std::optional<heads_view<const T>> past_value = std::nullopt;  ///< as `past_key`
};

/// The operator's outputs.
template <class T>
struct onnx_attention_outputs {
  /// B x H x Lq x dv, its memory in the query's order: of a tensor of rank 3, if that was one.
  heads_array<T> y;
  /// The past with the call's keys and values after it; empty where there is no past.
  heads_array<T> present_key;
  heads_array<T> present_value;  ///< as `present_key`
  /// B x H x Lq x (past + Lk), as qk_matmul_output_mode says; empty without.
  heads_array<accumulator_t<T>> qk_matmul_output;
};

/// A tensor in C order as heads: of rank 4, batch x heads x length x width, or of rank 3, batch x
/// length x (heads · width), for which the number of heads must be told: q_num_heads or
/// kv_num_heads. Throws std::invalid_argument for another rank or where the heads do not fit.
template <class T>
heads_view<T> onnx_heads(T* data, integers shape, std::optional<index> num_heads = std::nullopt) {
  const index rank = shape.size();
  const index heads = num_heads.value_or(0);
  detail::require(rank == 3 || rank == 4, "shape has rank ", rank, ", it should be 3 or 4");
  if (rank == 4) {
    detail::require(!num_heads || heads == shape[1], "num_heads is ", heads, ", the shape has ",
                    shape[1], " heads; for rank 4 it should be left out");
    return bhld(data, {shape[0], shape[1], shape[2], shape[3]});
  }
  detail::require(num_heads.has_value(),
                  "num_heads is left out, for a shape of rank 3 it should be given");
  detail::require(heads >= 1 && shape[2] % heads == 0, "num_heads is ", heads,
                  ", it should be at least 1 and divide the last extent ", shape[2]);
  return blhd(data, {shape[0], heads, shape[1], shape[2] / heads});
}

/// A tensor of rank 1 to 4 in C order as a mask. As in NumPy, extents count from the last: rank 3
/// begins with the heads. Throws std::invalid_argument for another rank.
template <class E>
heads_view<const E> onnx_mask(const E* data, integers shape) {
  const index rank = shape.size();
  detail::require(rank >= 1 && rank <= 4, "the mask's shape has rank ", rank,
                  ", it should be 1 to 4");
  const auto extent = [&](index from_last) {
    return from_last < rank ? shape[rank - 1 - from_last] : 1;
  };
  return bhld(data, {extent(3), extent(2), extent(1), extent(0)});
}

namespace detail {

inline void check_window(std::string_view name, index n) {
  require(n >= unbounded, name, " is ", n, ", it should be at least 0, or -1 for unbounded");
}

template <class S>
void check_onnx_attributes(const onnx_attention_attributes& a) {
  check_window("left_window_size", a.left_window_size);
  check_window("right_window_size", a.right_window_size);
  require(a.softcap >= 0, "softcap is ", a.softcap, ", it should be positive, or 0 for none");
  if (a.scale) checked_scale<S>(*a.scale);
  const int mode = a.qk_matmul_output_mode.value_or(0);
  require(mode >= 0 && mode <= 3, "qk_matmul_output_mode is ", mode, ", it should be from 0 to 3");
  const int type = a.softmax_precision.value_or(1);
  constexpr int float64 = 11;
  require(type == 1 || type == 10 || type == float64 || type == 16, "softmax_precision is ", type,
          ", it should be 1 (float), 10 (float16), 11 (double) or 16 (bfloat16)");
  require(type != float64 || sizeof(S) >= sizeof(double), "softmax_precision is ", type,
          " (double), these inputs are computed in float: cast them to double");
}

/// What the inputs must agree in. The call that follows would say some of it, but of the presents.
template <class T>
void check_onnx_inputs(const heads_view<const T>& query, const heads_view<const T>& key,
                       const heads_view<const T>& value, const onnx_attention_inputs<T>& inputs) {
  const auto has_batch = [&](std::string_view name, index batch) {
    require(batch == query.batch(), name, " has ", batch, " sequences, query has ", query.batch());
  };
  has_batch("key", key.batch());
  has_batch("value", value.batch());
  check_keys_and_values(key, value);
  require(key.heads() >= 1 && query.heads() % key.heads() == 0, "key has ", key.heads(),
          " heads, it should have at least 1 and they should divide the ", query.heads(),
          " of query");
  require(key.width() == query.width(), "key has width ", key.width(), ", query has ",
          query.width());
  check_lengths("nonpad_kv_seqlen", inputs.nonpad_kv_seqlen, query.batch(), key.length());

  require(inputs.past_key.has_value() == inputs.past_value.has_value(),
          inputs.past_key ? "past_value" : "past_key", " is left out, the other past is given");
  if (!inputs.past_key) return;
  require(!inputs.nonpad_kv_seqlen,
          "nonpad_kv_seqlen is given together with a past: its keys are in a cache of the caller's "
          "already");
  const auto fits = [&](std::string_view name, const heads_view<const T>& past,
                        const heads_view<const T>& like) {
    heads_shape shape = like.shape();
    shape.length = inputs.past_key->length();
    require(past.shape() == shape, name, " has the shape ", past.shape(), ", it should have ",
            shape);
  };
  fits("past_key", *inputs.past_key, key);
  fits("past_value", *inputs.past_value, value);
}

/// to ← from, converted; both have one shape.
template <class E, class T>
void copy_elements(const heads_view<const E>& from, const heads_view<T>& to) {
  const heads_shape& n = from.shape();
  const index step = from.strides().col;
  for (index b = 0; b < n.batch && n.size() > 0; ++b) {
    for (index h = 0; h < n.heads; ++h) {
      for (index i = 0; i < n.length; ++i) {
        const E* const source = &from(b, h, i, 0);
        T* const row = &to(b, h, i, 0);
        for (index c = 0; c < n.width; ++c) {
          if constexpr (std::is_same_v<E, T>) {
            row[c] = source[c * step];
          } else if constexpr (std::floating_point<E>) {
            row[c] = saturated<T>(source[c * step]);
          } else {
            row[c] = convert<T>(source[c * step]);
          }
        }
      }
    }
  }
}

/// The tokens of `past` and then those of `fresh`.
template <class T>
heads_array<T> joined(const heads_view<const T>& past, const heads_view<const T>& fresh) {
  heads_shape shape = fresh.shape();
  shape.length += past.length();
  heads_array<T> all(shape);
  copy_elements(past, all.view().tokens(0, past.length()));
  copy_elements(fresh, all.view().tokens(past.length(), fresh.length()));
  return all;
}

/// The mask of a call on heads: booleans or numbers of the type computed in, as wide as the keys.
template <class S>
struct fitted_mask {
  std::variant<std::monostate, heads_view<const bool>, heads_view<const S>> view;
  heads_array<bool> booleans;  // memory of the view, where the mask itself cannot be it
  heads_array<S> numbers;
};

/// `mask` itself where it has the right type and width; else a copy in `memory`, converted, with
/// `hidden` for the keys that it lacks. Extents of 1 stay: nothing is repeated.
template <class S, class E>
heads_view<const S> fitted(const heads_view<const E>& mask, index keys, const S& hidden,
                           heads_array<S>& memory) {
  if constexpr (std::is_same_v<S, E>) {
    if (mask.width() == keys) return mask;
  }
  heads_shape shape = mask.shape();
  shape.width = keys;
  memory.resize(shape);
  std::fill_n(memory.data(), shape.size(), hidden);
  copy_elements(mask, heads_view<S>(memory.data(), mask.shape(), bhld_strides(shape)));
  return std::as_const(memory).view();
}

template <class S>
fitted_mask<S> fit_onnx_mask(const onnx_attention_mask& mask, const heads_shape& scores) {
  fitted_mask<S> result;
  const auto check = [&](const heads_shape& n) {
    require((n.batch == scores.batch || n.batch == 1) &&
                (n.heads == scores.heads || n.heads == 1) &&
                (n.length == scores.length || n.length == 1) && n.width <= scores.width,
            "attn_mask has the shape ", n, ", it should have ", scores,
            ", or 1 for any of the first three, or fewer keys");
  };
  std::visit(
      [&]<class View>(const View& view) {
        if constexpr (!std::is_same_v<View, std::monostate>) {
          check(view.shape());
          if constexpr (std::is_same_v<View, heads_view<const bool>>) {
            result.view = fitted<bool>(view, scores.width, false, result.booleans);
          } else {
            constexpr S hidden = -std::numeric_limits<S>::infinity();
            result.view = fitted<S>(view, scores.width, hidden, result.numbers);
          }
        }
      },
      mask);
  return result;
}

/// A checked call of the operator, on the past and what came after it.
template <class T>
struct onnx_call {
  using S = accumulator_t<T>;
  heads_view<const T> query;
  heads_view<const T> key;
  heads_view<const T> value;
  const onnx_attention_attributes& attributes;
  const fitted_mask<S>& mask;
  attn::options options;

  [[nodiscard]] sliding_window window() const {
    const auto& a = attributes;
    return {a.left_window_size, a.is_causal ? 0 : a.right_window_size};
  }

  [[nodiscard]] heads_array<T> y() const {
    const auto attend = [&](const auto& visible) {
      if (attributes.softcap == 0) {
        return scaled_dot_product_attention(query, key, value, visible, options);
      }
      return scaled_dot_product_attention(query, key, value, visible, softcap(attributes.softcap),
                                          options);
    };
    return std::visit(
        [&]<class View>(const View& view) {
          if constexpr (std::is_same_v<View, std::monostate>) {
            return attend(window());
          } else {
            return attend(window() & view);
          }
        },
        mask.view);
  }

  /// The scores of one head on their way to the softmax.
  [[nodiscard]] auto scores(index b, index h, int mode) const {
    const index of = h / (query.heads() / key.heads());
    auto s =
        scale(score(query.head(b, h), key.head(b, of)), scale_factor<S>(options, query.width()));
    if (mode >= 1 && attributes.softcap > 0) {
      s = apply_score_mod(std::move(s), softcap(attributes.softcap));
    }
    if (mode == 2) s = masked(std::move(s), b, h);
    return s;
  }

 private:
  template <class Scores>
  [[nodiscard]] auto masked(Scores&& s, index b, index h) const {
    const integers& lengths = options.key_lengths;
    const index length = lengths ? lengths[b] : key.length();
    const auto seen = window() & key_padding(length);
    const index first = options.alignment.offset(query.length(), length);
    return std::visit(
        [&]<class View>(const View& view) {
          if constexpr (std::is_same_v<View, std::monostate>) {
            return apply_mask(std::forward<Scores>(s), seen, offset(first));
          } else {
            const auto of_head = view.head(view.batch() == 1 ? 0 : b, view.heads() == 1 ? 0 : h);
            return apply_mask(std::forward<Scores>(s), seen & of_head, offset(first));
          }
        },
        mask.view);
  }
};

template <class T>
onnx_attention_outputs<T> onnx_attention(const heads_view<const T>& query,
                                         const heads_view<const T>& key,
                                         const heads_view<const T>& value,
                                         const onnx_attention_attributes& attributes,
                                         const onnx_attention_inputs<T>& inputs,
                                         const executor& executor) {
  using S = accumulator_t<T>;
  check_onnx_attributes<S>(attributes);
  check_onnx_inputs(query, key, value, inputs);
  const index past = inputs.past_key ? inputs.past_key->length() : 0;
  const heads_shape scores{query.batch(), query.heads(), query.length(), past + key.length()};
  const auto mask = fit_onnx_mask<S>(inputs.attn_mask, scores);

  onnx_attention_outputs<T> result;
  onnx_call<T> call{query, key, value, attributes, mask, {}};
  if (inputs.past_key) {
    result.present_key = joined(*inputs.past_key, key);
    result.present_value = joined(*inputs.past_value, value);
    call.key = as_heads(result.present_key);
    call.value = as_heads(result.present_value);
  }
  // With nonpad_kv_seqlen the last query stands at the last of its sequence's keys.
  call.options.alignment = inputs.nonpad_kv_seqlen ? bottom_right : offset(past);
  call.options.executor = executor;
  call.options.key_lengths = inputs.nonpad_kv_seqlen;
  call.options.scale = attributes.scale;
  const std::optional<int>& mode = attributes.qk_matmul_output_mode;
  if (mode == 3) call.options.weights = result.qk_matmul_output;
  result.y = call.y();
  if (mode && *mode != 3) {
    result.qk_matmul_output.resize(scores);
    executor(scores.batch * scores.heads, task([&](index n) {
               const index b = n / scores.heads, h = n % scores.heads;
               result.qk_matmul_output.head(b, h) = call.scores(b, h, *mode);
             }));
  }
  return result;
}

}  // namespace detail

/// The operator:
///
///     const auto out = attn::onnx_attention(q, k, v, {.is_causal = true, .softcap = 30},
///                                           {.past_key = past_k, .past_value = past_v});
///
/// query: B x H x Lq x d, key: B x Hk x Lk x d, value: B x Hk x Lk x dv, views or arrays of one
/// floating-point type; Hk divides H. Of tensors `onnx_heads` makes views. `executor` runs the
/// tasks of the call. Throws std::invalid_argument, before anything is computed, for attributes out
/// of range and inputs that do not fit.
template <detail::HeadsLike Q, detail::HeadsLike K, detail::HeadsLike V>
auto onnx_attention(const Q& query, const K& key, const V& value,
                    const onnx_attention_attributes& attributes = {},
                    const onnx_attention_inputs<detail::heads_scalar<Q>>& inputs = {},
                    const executor& executor = {}) {
  detail::require_one_scalar<Q, K, V>();
  return detail::onnx_attention<detail::heads_scalar<Q>>(
      detail::as_heads(query), detail::as_heads(key), detail::as_heads(value), attributes, inputs,
      executor);
}

}  // namespace attn::inline ATTN_ABI
