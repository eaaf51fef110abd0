// Built with the best flags of the machine, and with an Eigen in a namespace of its own: functions
// of the same name with and without wide vectors would be merged by the linker, and matrices that
// are aligned differently cannot be freed by one another.
#define Eigen naive_eigen
#include <Eigen/Core>
#include <algorithm>
#include <cmath>

#include "naive.hpp"

namespace bench {

template <class Scalar>
void naive_attention(const Scalar* query, const Scalar* key, const Scalar* value, Scalar* out,
                     std::ptrdiff_t queries, std::ptrdiff_t keys, std::ptrdiff_t width,
                     const naive_mask<Scalar>& mask) {
  using matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Eigen::Map<const matrix> q(query, queries, width);
  const Eigen::Map<const matrix> k(key, keys, width);
  const Eigen::Map<const matrix> v(value, keys, width);

  matrix s(queries, keys);
  s.noalias() = (1 / std::sqrt(Scalar(width))) * (q * k.transpose());
  if (mask.bias != nullptr) s += Eigen::Map<const matrix>(mask.bias, queries, keys);
  for (std::ptrdiff_t i = 0; i < queries; ++i) {
    const std::ptrdiff_t position = i + keys - queries;
    const std::ptrdiff_t first =
        mask.left < 0 ? 0 : std::max<std::ptrdiff_t>(position - mask.left, 0);
    const std::ptrdiff_t end = mask.causal ? position + 1 : keys;
    auto row = s.row(i).segment(first, end - first);
    row = (row.array() - row.maxCoeff()).exp();
    row /= row.sum();
    s.row(i).head(first).setZero();
    s.row(i).tail(keys - end).setZero();
  }
  Eigen::Map<matrix>(out, queries, width).noalias() = s * v;
}

template void naive_attention(const float*, const float*, const float*, float*, std::ptrdiff_t,
                              std::ptrdiff_t, std::ptrdiff_t, const naive_mask<float>&);
template void naive_attention(const double*, const double*, const double*, double*, std::ptrdiff_t,
                              std::ptrdiff_t, std::ptrdiff_t, const naive_mask<double>&);

}  // namespace bench
