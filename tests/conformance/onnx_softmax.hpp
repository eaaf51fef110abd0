// The ONNX operators Softmax and LogSoftmax, opset 13, in terms of attn.
// Along any axis, a tensor is a row of matrices whose columns are the slices.
#pragma once

#include <attn/attn.hpp>

#include "conformance/case_file.hpp"
#include "conformance/tensor.hpp"

namespace attn_test {

template <class T>
void run_softmax(const case_file& from, closeness allowed) {
  from.allow_only({"axis"}, {"x"}, {"y"});
  tensor<T> x = load<T>(from, "input.x");
  const auto rank = static_cast<int>(x.shape.size());
  const int axis = (from.attribute("axis", -1) + rank) % rank;
  std::int64_t blocks = 1, inner = 1;
  for (int n = 0; n < rank; ++n) {
    if (n < axis) blocks *= x.shape[static_cast<std::size_t>(n)];
    if (n > axis) inner *= x.shape[static_cast<std::size_t>(n)];
  }
  const std::int64_t length = x.shape[static_cast<std::size_t>(axis)];
  for (std::int64_t n = 0; n < blocks; ++n) {
    Eigen::Map<row_major<T>> block(x.values.data() + n * length * inner,
                                   static_cast<attn::index>(length),
                                   static_cast<attn::index>(inner));
    const row_major<T> slices = block.transpose();
    if (from.text("op") == "Softmax") {
      block = attn::softmax(slices).transpose();
    } else {
      block = (slices.colwise() - attn::log_sum_exp(slices)).transpose();
    }
  }
  compare(from, "output.y", x, allowed);
}

}  // namespace attn_test
