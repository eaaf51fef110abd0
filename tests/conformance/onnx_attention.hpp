// The stored cases of the ONNX operator Attention through attn/onnx_attention.hpp: tensors are
// loaded, the operator is called, what comes out is compared.
#pragma once

#include <attn/onnx_attention.hpp>
#include <cstdint>
#include <optional>
#include <string>

#include "conformance/case_file.hpp"
#include "conformance/tensor.hpp"

namespace attn_test {

inline attn::onnx_attention_attributes load_attributes(const case_file& from) {
  attn::onnx_attention_attributes a;
  a.is_causal = from.attribute("is_causal", 0) != 0;
  a.left_window_size = from.attribute("left_window_size", -1);
  if (from.has_output("qk_matmul_output")) {
    a.qk_matmul_output_mode = from.attribute("qk_matmul_output_mode", 0);
  }
  a.right_window_size = from.attribute("right_window_size", -1);
  a.scale = from.attribute<double>("scale");
  a.softcap = from.attribute("softcap", 0.0);
  a.softmax_precision = from.attribute<int>("softmax_precision");
  return a;
}

// The optional inputs with the memory that they refer to.
template <class T>
class optional_inputs {
 public:
  explicit optional_inputs(const case_file& from) {
    if (from.has_input("attn_mask")) {
      if (from.dtype("input.attn_mask") == "bool") {
        visible_ = load<bool>(from, "input.attn_mask");
        inputs_.attn_mask = attn::onnx_mask(visible_.values.data(), visible_.shape);
      } else {
        bias_ = load<T>(from, "input.attn_mask");
        inputs_.attn_mask = attn::onnx_mask(bias_.values.data(), bias_.shape);
      }
    }
    if (from.has_input("nonpad_kv_seqlen")) {
      lengths_ = load<std::int64_t>(from, "input.nonpad_kv_seqlen");
      inputs_.nonpad_kv_seqlen = lengths_.values;
    }
    inputs_.past_key = past(from, "past_key", key_);
    inputs_.past_value = past(from, "past_value", value_);
  }
  optional_inputs(const optional_inputs&) = delete;
  optional_inputs& operator=(const optional_inputs&) = delete;

  const attn::onnx_attention_inputs<T>& get() const { return inputs_; }

 private:
  static std::optional<attn::heads_view<const T>> past(const case_file& from,
                                                       const std::string& name, tensor<T>& memory) {
    if (!from.has_input(name)) return std::nullopt;
    memory = load<T>(from, "input." + name);
    return attn::onnx_heads(memory.values.data(), memory.shape);
  }

  tensor<bool> visible_;
  tensor<T> bias_, key_, value_;
  tensor<std::int64_t> lengths_;
  attn::onnx_attention_inputs<T> inputs_;
};

// Softmax in double (TensorProto's 11) is to be had with inputs of double.
inline bool asks_for_double(const case_file& from) {
  return from.attribute("softmax_precision", 1) == 11;
}

template <class T>
void run_attention(const case_file& from, closeness allowed) {
  from.allow_only(
      {"is_causal", "kv_num_heads", "left_window_size", "q_num_heads", "qk_matmul_output_mode",
       "right_window_size", "scale", "softcap", "softmax_precision"},
      {"Q", "K", "V", "attn_mask", "past_key", "past_value", "nonpad_kv_seqlen"},
      {"Y", "present_key", "present_value", "qk_matmul_output"});
  const auto q = load<T>(from, "input.Q"), k = load<T>(from, "input.K"),
             v = load<T>(from, "input.V");
  const auto heads = from.attribute<attn::index>("q_num_heads"),
             key_heads = from.attribute<attn::index>("kv_num_heads");
  const optional_inputs<T> inputs(from);
  const auto found = attn::onnx_attention(attn::onnx_heads(q.values.data(), q.shape, heads),
                                          attn::onnx_heads(k.values.data(), k.shape, key_heads),
                                          attn::onnx_heads(v.values.data(), v.shape, key_heads),
                                          load_attributes(from), inputs.get());

  const auto compare_if_asked = [&](const char* name, const auto& heads_found) {
    if (from.has_output(name)) compare(from, std::string("output.") + name, heads_found, allowed);
  };
  compare(from, "output.Y", found.y, allowed);
  compare_if_asked("present_key", found.present_key);
  compare_if_asked("present_value", found.present_value);
  compare_if_asked("qk_matmul_output", found.qk_matmul_output);
}

}  // namespace attn_test
