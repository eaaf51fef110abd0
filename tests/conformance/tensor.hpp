// Tensors of the cases: loaded from any stored type, compared by the rule of numpy.allclose, and
// the heads of a tensor as matrix views, in the two layouts that ONNX has.
#pragma once

#include <Eigen/Core>
#include <attn/config.hpp>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "conformance/case_file.hpp"

namespace attn_test {

template <class T>
using row_major = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// Calls f with a value of the C++ type that case.txt calls `dtype`.
template <class F>
decltype(auto) with_dtype(const std::string& dtype, const F& f) {
  if (dtype == "float32") return f(float{});
  if (dtype == "float64") return f(double{});
  if (dtype == "float16") return f(Eigen::half{});
  if (dtype == "bfloat16") return f(Eigen::bfloat16{});
  if (dtype == "int32") return f(std::int32_t{});
  if (dtype == "int64") return f(std::int64_t{});
  if (dtype == "bool") return f(bool{});
  throw std::runtime_error("dtype " + dtype + " is not known to this test");
}

template <class T>
struct tensor {
  std::vector<std::int64_t> shape;
  std::vector<T> values;
};

// `name` is input.<name> or output.<name>. The conversion goes through double, which holds every
// value of these types exactly (the integers are lengths).
template <class T>
tensor<T> load(const case_file& from, const std::string& name) {
  const npy_array array = from.array(name);
  tensor<T> result{array.shape, {}};
  with_dtype(from.dtype(name), [&](auto stored) {
    for (const decltype(stored) x : array.as<decltype(stored)>()) {
      result.values.push_back(static_cast<T>(static_cast<double>(x)));
    }
  });
  return result;
}

struct closeness {
  double rtol = 0;
  double atol = 0;
};

// Throws where `found` is not what the case says. NaN agrees with NaN, an infinity with itself.
template <class T>
void compare(const case_file& with, const std::string& name, const tensor<T>& found,
             closeness allowed) {
  const tensor<double> expected = load<double>(with, name);
  if (found.shape != expected.shape) throw std::runtime_error(name + " has the wrong shape");
  for (std::size_t n = 0; n < expected.values.size(); ++n) {
    const double e = expected.values[n], f = static_cast<double>(found.values[n]);
    const bool same = e == f || (std::isnan(e) && std::isnan(f));
    const bool close =
        std::isfinite(e) && std::abs(f - e) <= allowed.atol + allowed.rtol * std::abs(e);
    if (same || close) continue;
    std::ostringstream message;
    message.precision(9);
    message << name << '[' << n << "] is " << f << ", expected " << e;
    throw std::runtime_error(message.str());
  }
}

// A tensor of heads. ONNX stores them as (batch, heads, rows, width) or, interleaved, as
// (batch, rows, heads * width); either way one head is a matrix with an outer stride.
template <class T>
class head_tensor {
 public:
  head_tensor(std::int64_t batch, std::int64_t heads, std::int64_t rows, std::int64_t width,
              bool interleaved)
      : batch_(batch), heads_(heads), rows_(rows), width_(width), interleaved_(interleaved) {
    data_.shape = interleaved ? std::vector{batch, rows, heads * width}
                              : std::vector{batch, heads, rows, width};
    data_.values.resize(static_cast<std::size_t>(batch * heads * rows * width));
  }

  // `heads` counts for the interleaved layout only; the other one knows its own.
  head_tensor(tensor<T> from, std::int64_t heads) : data_(std::move(from)) {
    const auto& shape = data_.shape;
    interleaved_ = shape.size() == 3;
    if (!interleaved_ && shape.size() != 4) throw std::runtime_error("a tensor has rank 3 or 4");
    if (interleaved_ && (heads < 1 || shape[2] % heads != 0)) {
      throw std::runtime_error("the number of heads does not divide the last extent");
    }
    batch_ = shape[0];
    heads_ = interleaved_ ? heads : shape[1];
    rows_ = interleaved_ ? shape[1] : shape[2];
    width_ = interleaved_ ? shape[2] / heads : shape[3];
  }

  std::int64_t batch() const { return batch_; }
  std::int64_t heads() const { return heads_; }
  std::int64_t rows() const { return rows_; }
  std::int64_t width() const { return width_; }
  bool interleaved() const { return interleaved_; }
  const tensor<T>& data() const { return data_; }

  auto head(std::int64_t b, std::int64_t h) {
    return view<row_major<T>>(data_.values.data(), b, h);
  }
  auto head(std::int64_t b, std::int64_t h) const {
    return view<const row_major<T>>(data_.values.data(), b, h);
  }

 private:
  template <class Matrix, class Pointer>
  auto view(Pointer first, std::int64_t b, std::int64_t h) const {
    const std::int64_t start = interleaved_ ? b * rows_ * heads_ + h : (b * heads_ + h) * rows_;
    return Eigen::Map<Matrix, Eigen::Unaligned, Eigen::OuterStride<>>(
        first + start * width_, rows_, width_,
        Eigen::OuterStride<>(interleaved_ ? heads_ * width_ : width_));
  }

  std::int64_t batch_, heads_, rows_, width_;
  bool interleaved_;
  tensor<T> data_;
};

}  // namespace attn_test
