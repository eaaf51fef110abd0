// Masks in memory: booleans and numbers, in a matrix for one head or a view for many.
#pragma once

#include <Eigen/Core>
#include <attn/heads.hpp>
#include <attn/held_matrix.hpp>
#include <attn/position.hpp>
#include <limits>
#include <utility>

namespace attn::inline ATTN_ABI {
namespace detail {

/// What masks that are matrices in memory have in common.
template <class Held>
class matrix_mask {
 public:
  static constexpr bool positional = false;
  static constexpr bool of_heads = false;

  explicit matrix_mask(Held matrix) : matrix_(std::move(matrix)) {}

  void check(const call_shape& shape) const { check_mask_shape(matrix_.get(), shape); }

  /// Its extents, as of one head.
  [[nodiscard]] heads_shape shape() const {
    return {1, 1, matrix_.get().rows(), matrix_.get().cols()};
  }
  [[nodiscard]] heads_strides strides() const {
    return {0, 0, matrix_.get().rowStride(), matrix_.get().colStride()};
  }
  [[nodiscard]] coverage cover(tile) const { return coverage::some; }

  /// The elements in memory: row i, key j at data(b, h)[i · row_stride() + j · key_stride()].
  [[nodiscard]] auto data(index /*batch*/, index /*head*/) const { return matrix_.get().data(); }
  [[nodiscard]] index row_stride() const { return mask_row_stride(matrix_.get()); }
  [[nodiscard]] index key_stride() const { return matrix_.get().colStride(); }

 protected:
  [[nodiscard]] auto element(const position& at) const { return mask_element(matrix_.get(), at); }

 private:
  Held matrix_;
};

}  // namespace detail

/// A boolean matrix, true = may attend: one row a query, or one row for all of them.
template <class Held>
class boolean_mask : public detail::matrix_mask<Held> {
 public:
  using detail::matrix_mask<Held>::matrix_mask;
  [[nodiscard]] bool visible(position at) const { return this->element(at); }
};
template <class Held>
boolean_mask(Held) -> boolean_mask<Held>;

/// A floating-point matrix that is added to the scores: one row a query, or one for all of them.
/// -inf hides; every finite number, the lowest included, is a number like any other.
template <class Held>
class additive_mask : public detail::matrix_mask<Held> {
 public:
  using detail::matrix_mask<Held>::matrix_mask;
  [[nodiscard]] auto bias(position at) const { return this->element(at); }
  [[nodiscard]] bool visible(position at) const {
    using scalar = decltype(bias(at));
    return !(bias(at) == -std::numeric_limits<scalar>::infinity());
  }
};
template <class Held>
additive_mask(Held) -> additive_mask<Held>;

namespace detail {

/// What masks of many heads in memory have in common: extents of 1 serve all.
template <class T>
class heads_mask {
 public:
  static constexpr bool positional = false;
  static constexpr bool of_heads = true;

  explicit heads_mask(const heads_view<const T>& view) : view_(view), strides_(view.strides()) {
    if (view.batch() == 1) strides_.batch = 0;
    if (view.heads() == 1) strides_.head = 0;
    if (view.length() == 1) strides_.row = 0;
  }

  void check(const call_shape& shape) const {
    const heads_shape& n = view_.shape();
    require((n.batch == shape.batch || n.batch == 1) && (n.heads == shape.heads || n.heads == 1) &&
                (n.length == shape.queries || n.length == 1) && n.width == shape.keys,
            "mask has the shape ", n, ", it should have ", shape.batch, " x ", shape.heads, " x ",
            shape.queries, " x ", shape.keys, ", or 1 for any of the first three");
  }

  [[nodiscard]] const heads_shape& shape() const { return view_.shape(); }
  [[nodiscard]] const heads_strides& strides() const { return view_.strides(); }
  [[nodiscard]] coverage cover(tile) const { return coverage::some; }

  [[nodiscard]] const T* data(index batch, index head) const {
    return view_.data() + batch * strides_.batch + head * strides_.head;
  }
  [[nodiscard]] index row_stride() const { return strides_.row; }
  [[nodiscard]] index key_stride() const { return strides_.col; }

 protected:
  [[nodiscard]] T element(const position& at) const {
    return data(at.batch, at.head)[at.row * strides_.row + at.key * strides_.col];
  }

 private:
  heads_view<const T> view_;
  heads_strides strides_;
};

}  // namespace detail

/// Booleans of many heads, batch x heads x queries x keys, true = may attend. An extent of 1 in any
/// of the first three serves all. They must outlive the mask.
class boolean_heads_mask : public detail::heads_mask<bool> {
 public:
  using heads_mask::heads_mask;
  [[nodiscard]] bool visible(position at) const { return element(at); }
};

/// The same with numbers that are added to the scores; -inf hides.
template <class T>
class additive_heads_mask : public detail::heads_mask<T> {
 public:
  using detail::heads_mask<T>::heads_mask;
  [[nodiscard]] T bias(position at) const { return this->element(at); }
  [[nodiscard]] bool visible(position at) const {
    return !(bias(at) == -std::numeric_limits<T>::infinity());
  }
};

}  // namespace attn::inline ATTN_ABI
