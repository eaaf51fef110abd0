// A reference to numbers of the caller's that a call reads: a matrix, or heads of sequences.
#pragma once

#include <attn/output.hpp>

namespace attn::inline ATTN_ABI {
namespace detail {

/// Numbers in memory.
template <class M>
concept Readable = PlainMatrix<M> || MatrixView<M> || HeadsLike<M>;

}  // namespace detail

/// A reference to a matrix or vector in memory, or to a view or array of heads. What is referred to
/// must outlive the call. A row of numbers may lie either way.
class input {
 public:
  /// Nothing is given.
  input() = default;

  /// @{
  /// Refers to it.
  template <class M>
    requires(detail::PlainMatrix<M> || detail::MatrixView<M>)
  input(const M& matrix)  // NOLINT(google-explicit-constructor): `{.out = out}` converts to it
      : element_(detail::type_name<typename M::Scalar>()),
        data_(matrix.data()),
        shape_{1, 1, matrix.rows(), matrix.cols()},
        strides_{0, 0, matrix.rowStride(), matrix.colStride()} {}

  template <class T>
  input(const heads_view<T>& view)  // NOLINT(google-explicit-constructor): as above
      : element_(detail::type_name<std::remove_const_t<T>>()),
        data_(view.data()),
        shape_(view.shape()),
        strides_(view.strides()),
        is_heads_(true) {}
  template <class T>
  input(const heads_array<T>& array)  // NOLINT(google-explicit-constructor): as above
      : input(array.view()) {}
  /// @}

  /// What has no numbers in memory does not compile.
  template <class M>
    requires(!detail::Readable<M> && !std::is_same_v<M, input>)
  input(const M&) {  // NOLINT(google-explicit-constructor): as above
    static_assert(detail::Readable<M>,
                  "attn: this should be a matrix or vector in memory, a Map, Block or Ref of one, "
                  "a heads_view or a heads_array: evaluate an expression into a matrix first, and "
                  "refer to other containers by an Eigen::Map.");
  }

  /// Whether anything is given.
  [[nodiscard]] explicit operator bool() const { return !element_.empty(); }

  /// Throws unless these are numbers of type S and of this shape.
  template <class S>
  void check(std::string_view name, const heads_shape& shape, bool as_heads) const {
    detail::require(static_cast<bool>(*this), name, " is not given");
    detail::require(element_ == detail::type_name<S>(), name, " has elements of type ", element_,
                    ", they should be ", detail::type_name<S>());
    if (as_heads) {
      detail::require(is_heads_, name, " is a matrix, it should be a heads_view or heads_array of ",
                      shape);
      detail::require(shape_ == shape, name, " has the shape ", shape_, ", it should have ", shape);
    } else {
      detail::require(!is_heads_, name, " is heads of sequences, it should be a matrix with ",
                      shape.length, " rows and ", shape.width, " columns");
      detail::require(shape_ == shape || lies_down(shape), name, " has ", shape_.length,
                      " rows and ", shape_.width, " columns, it should have ", shape.length,
                      " and ", shape.width);
    }
  }

  /// The numbers, after `check`; empty where nothing is given.
  template <class S>
  [[nodiscard]] heads_view<const S> view(const heads_shape& shape) const {
    if (!*this) return {};
    heads_strides strides = strides_;
    if (lies_down(shape)) std::swap(strides.row, strides.col);
    return {static_cast<const S*>(data_), shape, strides};
  }

 private:
  [[nodiscard]] bool lies_down(const heads_shape& shape) const {
    return !is_heads_ && (shape.width == 1 || shape.length == 1) && shape_ != shape &&
           shape_.length == shape.width && shape_.width == shape.length;
  }

  std::string_view element_;
  const void* data_ = nullptr;
  heads_shape shape_{0, 0, 0, 0};
  heads_strides strides_;
  bool is_heads_ = false;
};

}  // namespace attn::inline ATTN_ABI
