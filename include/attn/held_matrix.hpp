// Eigen arguments that outlive the expression they were written in: masks and bias tables.
// A plain lvalue is referred to, a view stays a view, everything else is evaluated once.
#pragma once

#include <Eigen/Core>
#include <attn/position.hpp>
#include <type_traits>
#include <utility>

namespace attn::inline ATTN_ABI::detail {

template <class M>
void as_dense(const Eigen::DenseBase<M>&);
template <class M>
void as_plain(const Eigen::PlainObjectBase<M>&);

/// Any Eigen matrix, array or expression of them.
template <class T>
concept EigenDense = requires(const std::remove_cvref_t<T>& m) { as_dense(m); };

template <class T>
concept PlainMatrix = requires(const std::remove_cvref_t<T>& m) { as_plain(m); };

/// Has memory with strides behind it: a Map, Block, Ref or transpose of a plain matrix.
template <class T>
concept MatrixView = EigenDense<T> && !PlainMatrix<T> &&
                     ((std::remove_cvref_t<T>::Flags & Eigen::DirectAccessBit) != 0) &&
                     requires(const std::remove_cvref_t<T>& m) {
                       m.data();
                       m.innerStride();
                       m.outerStride();
                     };

/// A reference that may own what it refers to, a copy of its own.
template <class T>
inline constexpr bool may_own = false;
template <class T, int Options, class Stride>
inline constexpr bool may_own<Eigen::Ref<const T, Options, Stride>> = true;

/// Has memory that is still there after the statement in which it is written.
template <class M>
concept Lasting =
    (PlainMatrix<M> && std::is_lvalue_reference_v<M>) ||
    (MatrixView<M> && (std::is_lvalue_reference_v<M> || !may_own<std::remove_cvref_t<M>>));

template <class M>
class borrowed_matrix {
 public:
  explicit borrowed_matrix(const M& matrix) : matrix_(&matrix) {}
  const M& get() const { return *matrix_; }

 private:
  const M* matrix_;
};

template <class M>
class owned_matrix {
 public:
  explicit owned_matrix(M matrix) : matrix_(std::move(matrix)) {}
  const M& get() const { return matrix_; }

 private:
  M matrix_;
};

using any_stride = Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>;

/// The matrix `m`, kept for later use.
template <EigenDense M>
auto hold(M&& m) {
  using T = std::remove_cvref_t<M>;
  using plain = typename T::PlainObject;
  if constexpr (!Lasting<M>) {
    return owned_matrix<plain>(std::forward<M>(m));
  } else if constexpr (PlainMatrix<T>) {
    return borrowed_matrix<T>(m);
  } else {
    using view = Eigen::Map<const plain, Eigen::Unaligned, any_stride>;
    return owned_matrix<view>(
        view(m.data(), m.rows(), m.cols(), any_stride(m.outerStride(), m.innerStride())));
  }
}

/// A mask matrix has a column a key, and a row a query or a single row for all of them.
template <class M>
void check_mask_shape(const M& mask, const call_shape& shape) {
  require(mask.cols() == shape.keys, "mask has ", mask.cols(), " columns, key has ", shape.keys,
          " rows");
  require(mask.rows() == shape.queries || mask.rows() == 1, "mask has ", mask.rows(),
          " rows, query has ", shape.queries, " (a single row would serve all)");
}

template <class M>
auto mask_element(const M& mask, const position& at) {
  return mask.coeff(mask.rows() == 1 ? 0 : at.row, at.key);
}

template <class M>
index mask_row_stride(const M& mask) {
  return mask.rows() == 1 ? 0 : mask.rowStride();
}

}  // namespace attn::inline ATTN_ABI::detail
