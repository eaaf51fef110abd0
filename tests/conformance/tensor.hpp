// Tensors of the cases: loaded from any stored type, and compared by the rule of numpy.allclose.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <attn/heads.hpp>
#include <cmath>
#include <cstdint>
#include <iterator>
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
using elements = Eigen::Matrix<T, Eigen::Dynamic, 1>;

template <class T>
struct tensor {
  std::vector<std::int64_t> shape;
  elements<T> values;
};

// `name` is input.<name> or output.<name>. The conversion goes through double, which holds every
// value of these types exactly (the integers are lengths).
template <class T>
tensor<T> load(const case_file& from, const std::string& name) {
  const npy_array array = from.array(name);
  tensor<T> result{array.shape, {}};
  with_dtype(from.dtype(name), [&](auto stored) {
    const auto values = array.as<decltype(stored)>();
    result.values.resize(std::ssize(values));
    std::transform(values.begin(), values.end(), result.values.data(),
                   [](decltype(stored) x) { return static_cast<T>(static_cast<double>(x)); });
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
  for (attn::index n = 0; n < expected.values.size(); ++n) {
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

// Heads in their order of memory, which should be that of the case's tensor, of rank 3 or 4.
template <class T>
void compare(const case_file& with, const std::string& name, const attn::heads_array<T>& found,
             closeness allowed) {
  const attn::heads_shape& n = found.shape();
  const bool interleaved = with.array(name).shape.size() == 3;
  const tensor<T> as_stored{interleaved
                                ? std::vector<std::int64_t>{n.batch, n.length, n.heads * n.width}
                                : std::vector<std::int64_t>{n.batch, n.heads, n.length, n.width},
                            Eigen::Map<const elements<T>>(found.data(), n.size())};
  compare(with, name, as_stored, allowed);
}

}  // namespace attn_test
