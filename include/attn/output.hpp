// A reference to memory of the caller's that receives a result.
#pragma once

#include <Eigen/Core>
#include <attn/heads.hpp>
#include <attn/held_matrix.hpp>
#include <attn/position.hpp>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>

namespace attn::inline ATTN_ABI {
namespace detail {

template <class T>
  requires(!std::is_const_v<T>)
void as_written(const heads_view<T>&);
template <class T>
void as_written(heads_array<T>&);
template <class M>
  requires(PlainMatrix<M> && !std::is_const_v<M>)
void as_written(M&);
template <class M>
  requires(MatrixView<M> && (std::remove_cvref_t<M>::Flags & Eigen::LvalueBit) != 0)
void as_written(M&&);

/// What a result can be written to.
template <class M>
concept Writable = requires { as_written(std::declval<M>()); };

/// One text for a type in every part of a program.
template <class S>
constexpr std::string_view type_name() {
  if constexpr (std::is_same_v<S, float>) return "float";
  if constexpr (std::is_same_v<S, double>) return "double";
  if constexpr (std::is_same_v<S, long double>) return "long double";
  if constexpr (std::is_same_v<S, Eigen::half>) return "Eigen::half";
  if constexpr (std::is_same_v<S, Eigen::bfloat16>) return "Eigen::bfloat16";
#if defined(__GNUC__)
  return __PRETTY_FUNCTION__;
#else
  return __FUNCSIG__;
#endif
}

}  // namespace detail

/// A reference to a matrix or vector of the caller's that receives a result. A plain dynamic matrix
/// is resized; a Map, Block, Ref or fixed-size matrix must have the right size; a row of numbers
/// may lie either way. The element type must be the one the call computes in (float for float and
/// 16-bit inputs), and for the result itself that of the query. What is referred to must outlive
/// the call.
class output {
 public:
  /// Nothing is asked for.
  output() = default;

  /// @{
  /// Refers to it.
  template <detail::PlainMatrix M>
    requires(!std::is_const_v<M>)
  output(M& matrix)  // NOLINT(google-explicit-constructor): `{.weights = w}` converts to it
      : element_(detail::type_name<typename M::Scalar>()),
        target_(&matrix),
        rows_(sizes(M::RowsAtCompileTime, M::MaxRowsAtCompileTime)),
        cols_(sizes(M::ColsAtCompileTime, M::MaxColsAtCompileTime)),
        locate_([](void* target, index rows, index cols) {
          auto& resized = *static_cast<M*>(target);
          if (rows >= 0) resized.resize(rows, cols);
          return place{resized.data(), resized.rowStride(), resized.colStride(), resized.rows(),
                       resized.cols()};
        }) {}

  template <detail::MatrixView M>
    requires((std::remove_cvref_t<M>::Flags & Eigen::LvalueBit) != 0)
  output(M&& view)  // NOLINT(google-explicit-constructor): `{.weights = w.row(0)}` converts to it
      : element_(detail::type_name<typename std::remove_cvref_t<M>::Scalar>()),
        view_{view.data(), view.rowStride(), view.colStride(), view.rows(), view.cols()},
        rows_{view.rows(), view.rows()},
        cols_{view.cols(), view.cols()} {}
  /// @}

  /// @{
  /// Heads of sequences: a view must have the right shape, an array is resized.
  template <class T>
    requires(!std::is_const_v<T>)
  output(const heads_view<T>& view)  // NOLINT(google-explicit-constructor): as above
      : element_(detail::type_name<T>()),
        is_heads_(true),
        heads_{view.data(), view.shape(), view.strides()} {}
  template <class T>
  output(heads_array<T>& array)  // NOLINT(google-explicit-constructor): as above
      : element_(detail::type_name<T>()),
        target_(&array),
        is_heads_(true),
        locate_heads_([](void* target, const heads_shape* shape) {
          auto& resized = *static_cast<heads_array<T>*>(target);
          if (shape != nullptr) resized.resize(*shape, resized.order());
          const heads_view<T> now = resized.view();
          return heads_place{now.data(), now.shape(), now.strides()};
        }) {}
  /// @}

  /// What cannot be written to does not compile.
  template <class M>
    requires(!detail::Writable<M> && !std::is_same_v<std::remove_cvref_t<M>, output>)
  output(M&&) {  // NOLINT(google-explicit-constructor): as above
    static_assert(detail::Writable<M>,
                  "attn: a result goes to a matrix, vector, Map, Block, Ref, heads_view or "
                  "heads_array that can be written to, and is still there after the call: not to "
                  "a constant, a temporary or an expression.");
  }

  /// Whether anything is asked for.
  [[nodiscard]] explicit operator bool() const { return !element_.empty(); }

  /// Whether it refers to heads of sequences.
  [[nodiscard]] bool is_heads() const { return is_heads_; }

  /// Whether both refer to one plain matrix.
  [[nodiscard]] bool is_same_as(const output& other) const {
    return target_ != nullptr && target_ == other.target_;
  }

  /// Throws unless rows x cols numbers of type S can be put here. Touches nothing.
  template <class S>
  void check(std::string_view name, index rows, index cols) const {
    check_element<S>(name);
    detail::require(!is_heads_, name, " is heads of sequences, it should be a matrix with ", rows,
                    " rows and ", cols, " columns");
    if (!fits(rows, cols) && !lies_down(rows, cols)) {
      detail::require(false, name, " has ", rows_.to_text(), " rows and ", cols_.to_text(),
                      " columns, it should have ", rows, " and ", cols);
    }
  }

  /// The same for heads of sequences.
  template <class S>
  void check(std::string_view name, const heads_shape& shape) const {
    check_element<S>(name);
    detail::require(is_heads_, name, " is a matrix, it should be a heads_view or heads_array of ",
                    shape);
    detail::require(locate_heads_ != nullptr || heads_.shape == shape, name, " has the shape ",
                    heads_.shape, ", it should have ", shape);
  }

  /// The rows x cols numbers to write to, after `check`; resizes a plain matrix. Empty where
  /// nothing is asked for.
  template <class S>
  [[nodiscard]] auto open(index rows, index cols) const {
    if (!*this) rows = cols = 0;
    const bool turned = lies_down(rows, cols);
    place at =
        locate_ == nullptr ? view_ : locate_(target_, turned ? cols : rows, turned ? rows : cols);
    if (turned) std::swap(at.row_stride, at.col_stride);
    return map<S>(at, rows, cols);
  }

  /// The same of heads.
  template <class S>
  [[nodiscard]] heads_view<S> open(const heads_shape& shape) const {
    if (!*this) return {};
    return view<S>(locate_heads_ == nullptr ? heads_ : locate_heads_(target_, &shape));
  }

  /// The heads that it refers to as they are, before they are resized.
  template <class S>
  [[nodiscard]] heads_view<S> now_heads() const {
    return view<S>(locate_heads_ == nullptr ? heads_ : locate_heads_(target_, nullptr));
  }

  /// What it refers to as it is, before it is resized.
  template <class S>
  [[nodiscard]] auto now() const {
    const place at = locate_ == nullptr ? view_ : locate_(target_, -1, -1);
    return map<S>(at, at.rows, at.cols);
  }

 private:
  template <class S>
  void check_element(std::string_view name) const {
    if (element_ != detail::type_name<S>()) {
      detail::require(false, name, " has elements of type ", element_, ", they should be ",
                      detail::type_name<S>());
    }
  }

  struct heads_place {
    void* data = nullptr;
    heads_shape shape{0, 0, 0, 0};
    heads_strides strides;
  };
  template <class S>
  static heads_view<S> view(const heads_place& at) {
    return {static_cast<S*>(at.data), at.shape, at.strides};
  }

  struct place {
    void* data = nullptr;
    index row_stride = 0;
    index col_stride = 0;
    index rows = 0;
    index cols = 0;
  };

  template <class S>
  static auto map(const place& at, index rows, index cols) {
    using matrix = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic>;
    return Eigen::Map<matrix, Eigen::Unaligned, detail::any_stride>(
        static_cast<S*>(at.data), rows, cols, detail::any_stride(at.col_stride, at.row_stride));
  }

  /// The sizes that one dimension can take.
  struct range {
    static constexpr index any = std::numeric_limits<index>::max();
    index least = 0;
    index most = 0;

    [[nodiscard]] bool holds(index n) const { return least <= n && n <= most; }
    [[nodiscard]] std::string to_text() const {
      if (most == any) return "any number of";
      return (least == most ? "" : "at most ") + std::to_string(most);
    }
  };
  static constexpr range sizes(int fixed, int most) {
    if (fixed != Eigen::Dynamic) return {fixed, fixed};
    return {0, most != Eigen::Dynamic ? most : range::any};
  }

  [[nodiscard]] bool fits(index rows, index cols) const {
    return rows_.holds(rows) && cols_.holds(cols);
  }
  [[nodiscard]] bool lies_down(index rows, index cols) const {
    return (rows == 1 || cols == 1) && !fits(rows, cols) && fits(cols, rows);
  }

  std::string_view element_;
  void* target_ = nullptr;
  place view_;
  range rows_;
  range cols_;
  place (*locate_)(void* target, index rows, index cols) = nullptr;  // resizes unless rows is -1

  bool is_heads_ = false;
  heads_place heads_;
  heads_place (*locate_heads_)(void* target, const heads_shape* shape) = nullptr;
};

}  // namespace attn::inline ATTN_ABI
