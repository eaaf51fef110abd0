// The ONNX operator RotaryEmbedding, opset 23, in terms of attn.
// Its caches are tables by position, or, without position_ids, tables by sequence and token.
#pragma once

#include <attn/onnx_attention.hpp>
#include <attn/rotary.hpp>
#include <stdexcept>
#include <vector>

#include "conformance/case_file.hpp"
#include "conformance/tensor.hpp"

namespace attn_test {

// All axes but the last as rows.
template <class T>
row_major<T> table(const tensor<T>& cache) {
  const auto cols = static_cast<attn::index>(cache.shape.back());
  const auto size = static_cast<attn::index>(cache.values.size());
  return Eigen::Map<const row_major<T>>(cache.values.data(), cols == 0 ? 0 : size / cols, cols);
}

template <class T>
void run_rotary(const case_file& from, closeness allowed) {
  from.allow_only({"interleaved", "num_heads", "rotary_embedding_dim"},
                  {"input", "cos_cache", "sin_cache", "position_ids"}, {"output"});
  tensor<T> x = load<T>(from, "input.input");
  const auto heads =
      attn::onnx_heads(x.values.data(), x.shape, from.attribute<attn::index>("num_heads"));
  const tensor<T> cos = load<T>(from, "input.cos_cache"), sin = load<T>(from, "input.sin_cache");
  const int width = from.attribute("rotary_embedding_dim", 0);
  if (2 * cos.shape.back() != (width == 0 ? heads.width() : width)) {
    throw std::runtime_error("cos_cache does not fit the width");
  }
  const auto layout = from.attribute("interleaved", 0) != 0 ? attn::rotary_layout::interleaved
                                                            : attn::rotary_layout::half_split;
  if (from.has_input("position_ids")) {
    const auto ids = load<std::int64_t>(from, "input.position_ids");
    attn::apply_rotary(heads, table(cos), table(sin), {.ids = ids.values}, layout);
  } else {
    std::vector<std::int64_t> first_rows;
    for (std::int64_t b = 0; b < heads.batch(); ++b) first_rows.push_back(b * heads.length());
    attn::apply_rotary(heads, table(cos), table(sin), {.offsets = first_rows}, layout);
  }
  compare(from, "output.output", x, allowed);
}

}  // namespace attn_test
