// The ONNX operator Attention (opsets 23 to 25) in terms of attn: this file loops over sequences
// and heads, joins the past with the new keys, spreads masks; attn does the attention of each head.
#pragma once

#include <algorithm>
#include <array>
#include <attn/attn.hpp>
#include <cmath>
#include <cstdint>
#include <optional>
#include <utility>

#include "conformance/case_file.hpp"
#include "conformance/tensor.hpp"

namespace attn_test {

// What qk_matmul_output holds: the scores at one of four points of the definition.
enum class score_output : std::uint8_t { scaled, changed, masked, weights };

template <class T>
struct onnx_attention {
  head_tensor<T> q, k, v;  // k and v begin with the past
  std::int64_t past_rows = 0;
  std::optional<tensor<T>> bias = std::nullopt;
  std::optional<tensor<bool>> visible = std::nullopt;
  std::optional<tensor<std::int64_t>> key_lengths = std::nullopt;
  std::optional<double> scale = std::nullopt;
  double softcap = 0;  // 0: none
  bool causal = false;
  attn::index left = attn::unbounded, right = attn::unbounded;
  score_output scores = score_output::scaled;
};

template <class T>
struct onnx_attention_result {
  head_tensor<T> y;
  head_tensor<attn::accumulator_t<T>> scores;
};

// Joins the past, which is always stored as (batch, heads, rows, width), with the new rows. What
// comes out is the operator's present_key or present_value as well.
template <class T>
head_tensor<T> with_past(const case_file& from, const std::string& past_name,
                         const head_tensor<T>& fresh) {
  std::optional<head_tensor<T>> past;
  if (from.has_input(past_name)) past.emplace(load<T>(from, "input." + past_name), 0);
  const std::int64_t before = past ? past->rows() : 0;
  head_tensor<T> present(fresh.batch(), fresh.heads(), before + fresh.rows(), fresh.width(), false);
  for (std::int64_t b = 0; b < fresh.batch(); ++b) {
    for (std::int64_t h = 0; h < fresh.heads(); ++h) {
      auto head = present.head(b, h);
      if (past) head.topRows(before) = past->head(b, h);
      head.bottomRows(fresh.rows()) = fresh.head(b, h);
    }
  }
  return present;
}

template <class T>
onnx_attention<T> load_attention(const case_file& from) {
  from.allow_only(
      {"is_causal", "kv_num_heads", "left_window_size", "q_num_heads", "qk_matmul_output_mode",
       "right_window_size", "scale", "softcap", "softmax_precision"},
      {"Q", "K", "V", "attn_mask", "past_key", "past_value", "nonpad_kv_seqlen"},
      {"Y", "present_key", "present_value", "qk_matmul_output"});
  const int key_heads = from.attribute("kv_num_heads", 0);
  const head_tensor<T> fresh_keys(load<T>(from, "input.K"), key_heads);
  const head_tensor<T> fresh_values(load<T>(from, "input.V"), key_heads);
  onnx_attention<T> a{
      .q = head_tensor<T>(load<T>(from, "input.Q"), from.attribute("q_num_heads", 0)),
      .k = with_past(from, "past_key", fresh_keys),
      .v = with_past(from, "past_value", fresh_values)};
  if (a.k.heads() == 0 || a.q.heads() % a.k.heads() != 0) {
    throw std::runtime_error("the heads of K do not divide those of Q");
  }
  a.past_rows = a.k.rows() - fresh_keys.rows();
  if (from.has_input("attn_mask")) {
    if (from.dtype("input.attn_mask") == "bool") {
      a.visible = load<bool>(from, "input.attn_mask");
    } else {
      a.bias = load<T>(from, "input.attn_mask");
    }
  }
  if (from.has_input("nonpad_kv_seqlen")) {
    a.key_lengths = load<std::int64_t>(from, "input.nonpad_kv_seqlen");
  }
  if (from.has("attr.scale")) a.scale = from.number("attr.scale");
  a.softcap = from.attribute("softcap", 0.0);
  a.causal = from.attribute("is_causal", 0) != 0;
  a.left = from.attribute("left_window_size", -1);
  a.right = from.attribute("right_window_size", -1);
  const int mode = from.attribute("qk_matmul_output_mode", 0);
  if (mode < 0 || mode > 3) throw std::runtime_error("qk_matmul_output_mode is not 0 to 3");
  a.scores = static_cast<score_output>(mode);
  return a;
}

// The mask of one head. As in NumPy, a mask of lower rank is spread over the leading axes of
// (batch, heads, rows, keys), and so is an extent of 1; but a last axis that is too short is filled
// up with `filling`, even if it is 1.
template <class M>
row_major<M> mask_of_head(const tensor<M>& mask, std::array<std::int64_t, 4> full, std::int64_t b,
                          std::int64_t h, M filling) {
  const std::size_t rank = mask.shape.size();
  std::array<std::int64_t, 4> extent{1, 1, 1, 1};
  if (rank <= 4) std::copy(mask.shape.begin(), mask.shape.end(), extent.end() - rank);
  bool fits = rank >= 1 && rank <= 4 && extent[3] <= full[3];
  for (std::size_t axis = 0; axis < 3; ++axis) {
    fits = fits && (extent[axis] == 1 || extent[axis] == full[axis]);
  }
  if (!fits) throw std::runtime_error("attn_mask does not fit the scores");
  row_major<M> spread = row_major<M>::Constant(full[2], full[3], filling);
  for (std::int64_t i = 0; i < full[2]; ++i) {
    for (std::int64_t j = 0; j < extent[3]; ++j) {
      const std::int64_t batch = extent[0] == 1 ? 0 : b, head = extent[1] == 1 ? 0 : h;
      const std::int64_t row = extent[2] == 1 ? 0 : i;
      const auto n = ((batch * extent[1] + head) * extent[2] + row) * extent[3] + j;
      spread(i, j) = mask.values[static_cast<std::size_t>(n)];
    }
  }
  return spread;
}

// Calls f with the attn mask of one head.
template <class T, class F>
void with_mask(const onnx_attention<T>& a, std::int64_t b, std::int64_t h, const F& f) {
  const auto with_matrix = [&](const auto& positional) {
    const attn::index length = a.key_lengths
                                   ? a.key_lengths->values[static_cast<std::size_t>(b)]  //
                                   : a.k.rows();
    const auto structure =
        positional & attn::sliding_window(a.left, a.right) & attn::key_padding(length);
    const std::array full{a.q.batch(), a.q.heads(), a.q.rows(), a.k.rows()};
    if (a.visible) {
      f(structure & mask_of_head(*a.visible, full, b, h, false));
    } else if (a.bias) {
      const T hidden = -std::numeric_limits<T>::infinity();
      f(structure & mask_of_head(*a.bias, full, b, h, hidden));
    } else {
      f(structure);
    }
  };
  if (a.causal) {
    with_matrix(attn::causal());
  } else {
    with_matrix(attn::none());
  }
}

// The one call knows no name for the scores half way: the stages do.
template <class Q, class K, class M, class C>
auto scores_of_head(const Q& q, const K& k, const M& mask, const C& change, double scaling,
                    attn::alignment placed, score_output wanted) {
  auto s = attn::scale(attn::score(q, k), scaling);
  if (wanted == score_output::scaled) return s;
  s = attn::apply_score_mod(s, change, placed);
  if (wanted == score_output::changed) return s;
  s = attn::apply_mask(s, mask, placed);
  if (wanted == score_output::masked) return s;
  s = attn::softmax(s);
  return s;
}

template <class T>
onnx_attention_result<T> evaluate(const onnx_attention<T>& a) {
  const std::int64_t batch = a.q.batch(), heads = a.q.heads(), group = heads / a.k.heads();
  onnx_attention_result<T> result{{batch, heads, a.q.rows(), a.v.width(), a.q.interleaved()},
                                  {batch, heads, a.q.rows(), a.k.rows(), false}};
  for (std::int64_t b = 0; b < batch; ++b) {
    // Without a cache the first query stands at the first key, also where Lq != Lk.
    const attn::index first = a.key_lengths
                                  ? a.key_lengths->values[static_cast<std::size_t>(b)] - a.q.rows()
                                  : a.past_rows;
    for (std::int64_t h = 0; h < heads; ++h) {
      const auto q = a.q.head(b, h), k = a.k.head(b, h / group), v = a.v.head(b, h / group);
      const auto attend = [&](const auto& mask, const auto& change) {
        result.y.head(b, h) = attn::scaled_dot_product_attention(
            q, k, v, mask, change, {.alignment = attn::offset(first), .scale = a.scale});
        const double scaling = a.scale.value_or(1 / std::sqrt(static_cast<double>(q.cols())));
        result.scores.head(b, h) =
            scores_of_head(q, k, mask, change, scaling, attn::offset(first), a.scores);
      };
      with_mask(a, b, h, [&](const auto& mask) {
        if (a.softcap > 0) {
          attend(mask, attn::softcap(a.softcap));
        } else {
          attend(mask, attn::identity());
        }
      });
    }
  }
  return result;
}

// Softmax in a type wider than Q's accumulator (TensorProto's 11 is double): all of it is, then.
inline bool asks_for_double(const case_file& from) {
  return from.attribute("softmax_precision", 1) == 11;
}

template <class T>
void run_attention(const case_file& from, closeness allowed) {
  const onnx_attention<T> a = load_attention<T>(from);
  const onnx_attention_result<T> result = evaluate(a);
  compare(from, "output.Y", result.y.data(), allowed);
  const auto compare_if_asked = [&](const char* name, const auto& found) {
    if (from.has_output(name)) compare(from, std::string("output.") + name, found, allowed);
  };
  compare_if_asked("present_key", a.k.data());
  compare_if_asked("present_value", a.v.data());
  compare_if_asked("qk_matmul_output", result.scores.data());
}

}  // namespace attn_test
