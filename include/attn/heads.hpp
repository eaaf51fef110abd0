// Batch x heads x length x width numbers in memory that is already there: views with strides, made
// of pointers, matrices and tensors, and an array that owns its memory. Nothing is copied.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <attn/held_matrix.hpp>
#include <limits>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace attn::inline ATTN_ABI {

/// The extents of a view: `length` tokens of `width` features for each of `heads` heads of each of
/// `batch` sequences.
struct heads_shape {
  index batch = 1;   ///< sequences
  index heads = 1;   ///< heads of each
  index length = 0;  ///< tokens of a sequence
  index width = 0;   ///< features of a token

  /// How many numbers there are.
  [[nodiscard]] constexpr index size() const { return batch * heads * length * width; }
  /// The same extents.
  friend constexpr bool operator==(const heads_shape&, const heads_shape&) = default;

  /// "2 x 8 x 100 x 64"
  friend std::string to_text(const heads_shape& shape) {
    return std::to_string(shape.batch) + " x " + std::to_string(shape.heads) + " x " +
           std::to_string(shape.length) + " x " + std::to_string(shape.width);
  }
};

/// How far apart elements are, in elements: those of two sequences, two heads, two tokens, two
/// features. A stride of 0 repeats: one sequence's keys for all of a batch, say.
struct heads_strides {
  index batch = 0;  ///< from one sequence to the next
  index head = 0;   ///< from head to head
  index row = 0;    ///< from token to token
  index col = 1;    ///< from feature to feature
};

namespace detail {

inline void check_extents(std::string_view name, const heads_shape& shape) {
  require(shape.batch >= 0 && shape.heads >= 0 && shape.length >= 0 && shape.width >= 0, name,
          " has the shape ", shape, ", no extent should be negative");
}

/// Throws `std::length_error` with the parts joined, unless `ok`.
template <class... Parts>
void require_room(bool ok, const Parts&... parts) {
  if (!ok) [[unlikely]] {
    const std::string message = joined({message_part(parts)...});
#if ATTN_HAS_EXCEPTIONS
    throw std::length_error(message);
#else
    refuse(message);
#endif
  }
}

/// Elements of a shape. Throws `std::length_error` where they have more bytes than there are
/// addresses for.
inline index checked_size(std::string_view name, const heads_shape& shape, std::size_t bytes_each) {
  check_extents(name, shape);
  const index most = std::numeric_limits<index>::max() / static_cast<index>(bytes_each);
  index size = 1;
  for (const index extent : {shape.batch, shape.heads, shape.length, shape.width}) {
    if (extent == 0) return 0;
    require_room(size <= most / extent, name, " of ", shape,
                 " elements is more than there are addresses for");
    size *= extent;
  }
  return size;
}

/// Batch, heads, length and width one after the other in memory.
constexpr heads_strides bhld_strides(const heads_shape& n) {
  return {n.heads * n.length * n.width, n.length * n.width, n.width, 1};
}
/// Batch, length, heads, width.
constexpr heads_strides blhd_strides(const heads_shape& n) {
  return {n.length * n.heads * n.width, n.width, n.heads * n.width, 1};
}

}  // namespace detail

/// Numbers of type T that somebody else keeps: element (b, h, i, c) lies at
/// data[b · batch + h · head + i · row + c · col] with the strides' names.
template <class T>
class heads_view {
 public:
  using value_type = std::remove_const_t<T>;

  heads_view() = default;

  /// Throws std::invalid_argument for a negative extent, or where there are elements but no memory.
  heads_view(T* data, const heads_shape& shape, const heads_strides& strides)
      : data_(data), shape_(shape), strides_(strides) {
    detail::check_extents("heads_view", shape);
    detail::require(data != nullptr || shape.size() == 0, "heads_view has no memory for ", shape,
                    " elements: data is null");
  }

  /// A view that may be written to is one that may be read. (A function template that takes
  /// `heads_view<T>` does not see this conversion: let it take any type that it can call `head`
  /// of.)
  operator heads_view<const T>() const  // NOLINT(google-explicit-constructor): as T* to const T*
    requires(!std::is_const_v<T>)
  {
    return {data_, shape_, strides_};
  }

  /// @{
  /// What it was made of.
  [[nodiscard]] T* data() const { return data_; }
  [[nodiscard]] const heads_shape& shape() const { return shape_; }
  [[nodiscard]] const heads_strides& strides() const { return strides_; }
  [[nodiscard]] index batch() const { return shape_.batch; }
  [[nodiscard]] index heads() const { return shape_.heads; }
  [[nodiscard]] index length() const { return shape_.length; }
  [[nodiscard]] index width() const { return shape_.width; }
  /// @}

  /// Feature c of token i of head h of sequence b.
  [[nodiscard]] T& operator()(index b, index h, index i, index c) const {
    return data_[offset(b, h) + i * strides_.row + c * strides_.col];
  }

  /// One head of one sequence as an Eigen matrix, length x width, that refers to this memory.
  [[nodiscard]] auto head(index b, index h) const {
    using matrix = Eigen::Matrix<value_type, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    using seen = std::conditional_t<std::is_const_v<T>, const matrix, matrix>;
    T* const first = shape_.size() == 0 ? nullptr : data_ + offset(b, h);
    return Eigen::Map<seen, Eigen::Unaligned, detail::any_stride>(
        first, shape_.length, shape_.width, detail::any_stride(strides_.row, strides_.col));
  }

  /// Tokens [first, first + length) of every head.
  [[nodiscard]] heads_view tokens(index first, index length) const {
    detail::require(first >= 0 && length >= 0 && first <= shape_.length - length, "tokens [", first,
                    ", ", first + length, ") are not within the ", shape_.length, " of this view");
    heads_view part = *this;
    part.shape_.length = length;
    if (part.shape_.size() != 0) part.data_ += first * strides_.row;
    return part;
  }

  /// Sequences [first, first + batch).
  [[nodiscard]] heads_view sequences(index first, index batch) const {
    detail::require(first >= 0 && batch >= 0 && first <= shape_.batch - batch, "sequences [", first,
                    ", ", first + batch, ") are not within the ", shape_.batch, " of this view");
    heads_view part = *this;
    part.shape_.batch = batch;
    if (part.shape_.size() != 0) part.data_ += first * strides_.batch;
    return part;
  }

 private:
  [[nodiscard]] index offset(index b, index h) const {
    return b * strides_.batch + h * strides_.head;
  }

  T* data_ = nullptr;
  heads_shape shape_{0, 0, 0, 0};
  heads_strides strides_;
};

/// Memory in the order batch, heads, length, width: `[B, H, L, d]`. The shape is always told in
/// this order: `bhld(data, {.batch = 2, .heads = 8, .length = 100, .width = 64})`.
template <class T>
heads_view<T> bhld(T* data, const heads_shape& shape) {
  return {data, shape, detail::bhld_strides(shape)};
}

/// Memory in the order batch, length, heads, width: `[B, L, H, d]`, as a projection leaves it. The
/// shape is told as ever: batch, heads, length, width.
template <class T>
heads_view<T> blhd(T* data, const heads_shape& shape) {
  return {data, shape, detail::blhd_strides(shape)};
}

namespace detail {

/// An Eigen::Tensor or TensorMap of four dimensions, which this library does not include.
template <class M>
concept Tensor4 = requires(std::remove_reference_t<M>& tensor) {
  tensor.data();
  tensor.dimensions()[0];
  requires std::remove_cvref_t<M>::NumDimensions == 4;
  std::remove_cvref_t<M>::Layout;
};

template <std::size_t HeadsAt, std::size_t LengthAt, class M>
auto view_of_tensor(M& tensor) {
  constexpr bool row_major = int{M::Layout} == int{Eigen::RowMajor};
  const auto& extent = tensor.dimensions();
  index strides[4];
  index step = 1;
  for (std::size_t n = 0; n < 4; ++n) {
    const std::size_t at = row_major ? 3 - n : n;
    strides[at] = step;
    step *= extent[at];
  }
  using element = std::remove_pointer_t<decltype(tensor.data())>;
  return heads_view<element>(tensor.data(),
                             {extent[0], extent[HeadsAt], extent[LengthAt], extent[3]},
                             {strides[0], strides[HeadsAt], strides[LengthAt], strides[3]});
}

}  // namespace detail

/// An Eigen::Tensor or TensorMap with dimensions batch, heads, length, width, in either layout.
template <detail::Tensor4 M>
auto bhld(M&& tensor) {
  static_assert(std::is_lvalue_reference_v<M>, "attn: a view of a temporary would dangle.");
  return detail::view_of_tensor<1, 2>(tensor);
}

/// An Eigen::Tensor or TensorMap with dimensions batch, length, heads, width, in either layout.
template <detail::Tensor4 M>
auto blhd(M&& tensor) {
  static_assert(std::is_lvalue_reference_v<M>, "attn: a view of a temporary would dangle.");
  return detail::view_of_tensor<2, 1>(tensor);
}

/// A matrix with a row a token as `heads` heads side by side: head h is columns [h d, (h + 1) d).
/// With `batch` sequences of equal length one below the other. A plain lvalue, or a Map, Block or
/// Ref. Throws std::invalid_argument where heads or batch do not divide.
template <detail::Lasting M>
auto split_heads(M&& matrix, index heads, index batch = 1) {
  detail::require(heads >= 1 && matrix.cols() % heads == 0, "heads is ", heads,
                  ", it should be at least 1 and divide the ", matrix.cols(), " columns");
  detail::require(batch >= 1 && matrix.rows() % batch == 0, "batch is ", batch,
                  ", it should be at least 1 and divide the ", matrix.rows(), " rows");
  using element = std::remove_pointer_t<decltype(matrix.data())>;
  const heads_shape shape{batch, heads, matrix.rows() / batch, matrix.cols() / heads};
  return heads_view<element>(matrix.data(), shape,
                             {shape.length * matrix.rowStride(), shape.width * matrix.colStride(),
                              matrix.rowStride(), matrix.colStride()});
}
/// What is gone after the statement does not compile.
template <detail::EigenDense M>
  requires(!detail::Lasting<M>)
auto split_heads(M&&, index, index = 1) {
  static_assert(detail::Lasting<M>,
                "attn: split_heads of a temporary or an expression would dangle: evaluate it into "
                "a matrix that has a name.");
  return heads_view<typename std::remove_cvref_t<M>::Scalar>(nullptr, {}, {});
}

/// One matrix as one head of one sequence.
template <detail::EigenDense M>
auto one_head(M&& matrix) {
  return split_heads(std::forward<M>(matrix), 1);
}

/// Query, key and value as parts of one memory.
template <class T>
struct qkv_views {
  heads_view<T> query;  ///< the first columns
  heads_view<T> key;    ///< those after them
  heads_view<T> value;  ///< the last
};

/// A matrix with a row a token that holds, side by side, `heads` heads of query, then `key_heads`
/// of key and as many of value, all as wide: what one joint projection gives.
template <detail::EigenDense M>
auto split_qkv(M&& matrix, index heads, index key_heads, index batch = 1) {
  detail::require(heads >= 1 && key_heads >= 1, "split_qkv has ", heads, " query and ", key_heads,
                  " key heads, both should be at least 1");
  const index all_heads = heads + 2 * key_heads;
  detail::require(matrix.cols() % all_heads == 0, "split_qkv of ", matrix.cols(),
                  " columns: they should be a multiple of ", all_heads, ", ", heads,
                  " query heads and ", key_heads, " each of key and value");
  const auto all = split_heads(std::forward<M>(matrix), all_heads, batch);
  using element = std::remove_pointer_t<decltype(all.data())>;
  const auto part = [&](index first, index count) {
    heads_shape shape = all.shape();
    shape.heads = count;
    element* const data = shape.size() == 0 ? nullptr : all.data() + first * all.strides().head;
    return heads_view<element>(data, shape, all.strides());
  };
  return qkv_views<element>{part(0, heads), part(heads, key_heads),
                            part(heads + key_heads, key_heads)};
}
/// The same with as many heads of key and value as of query.
template <detail::EigenDense M>
auto split_qkv(M&& matrix, index heads) {
  return split_qkv(std::forward<M>(matrix), heads, heads);
}

/// The order of an array's memory.
enum class heads_order { bhld, blhd };

/// Heads that own their memory, and stand where a view is asked for. What was moved from is empty.
/// The memory starts at a multiple of 64 bytes: no vector of a row whose size is one too lies on
/// two cache lines.
template <class T>
class heads_array {
 public:
  heads_array() = default;
  /// The elements are not set.
  explicit heads_array(const heads_shape& shape, heads_order order = heads_order::bhld) {
    resize(shape, order);
  }
  heads_array(const heads_array& other) : heads_array(other.shape_, other.order_) {
    std::copy_n(other.elements_.get(), shape_.size(), elements_.get());
  }
  heads_array(heads_array&& other) noexcept { swap(other); }
  heads_array& operator=(heads_array other) noexcept {
    swap(other);
    return *this;
  }
  ~heads_array() = default;

  void swap(heads_array& other) noexcept {
    std::swap(shape_, other.shape_);
    std::swap(order_, other.order_);
    std::swap(elements_, other.elements_);
  }

  /// Keeps the elements where the shape stays; otherwise they are not set.
  void resize(const heads_shape& shape, heads_order order = heads_order::bhld) {
    if (shape != shape_) {
      const index size = detail::checked_size("heads_array", shape, sizeof(T));
      if (size != shape_.size()) elements_ = allocated(size);
      shape_ = shape;
    }
    order_ = order;
  }

  /// @{
  /// What it is of, and where it is kept.
  [[nodiscard]] const heads_shape& shape() const { return shape_; }
  [[nodiscard]] heads_order order() const { return order_; }
  [[nodiscard]] T* data() { return elements_.get(); }
  [[nodiscard]] const T* data() const { return elements_.get(); }
  /// @}

  /// @{
  /// All of it, as calls take it.
  [[nodiscard]] heads_view<T> view() { return {data(), shape_, strides()}; }
  [[nodiscard]] heads_view<const T> view() const { return {data(), shape_, strides()}; }
  /// @}

  /// @{
  /// Feature c of token i of head h of sequence b.
  [[nodiscard]] T& operator()(index b, index h, index i, index c) { return view()(b, h, i, c); }
  [[nodiscard]] const T& operator()(index b, index h, index i, index c) const {
    return view()(b, h, i, c);
  }
  /// @}
  /// @{
  /// One head of one sequence, as a Map with a row a token.
  [[nodiscard]] auto head(index b, index h) { return view().head(b, h); }
  [[nodiscard]] auto head(index b, index h) const { return view().head(b, h); }
  /// @}

 private:
  [[nodiscard]] heads_strides strides() const {
    return order_ == heads_order::bhld ? detail::bhld_strides(shape_)
                                       : detail::blhd_strides(shape_);
  }

  static constexpr std::align_val_t alignment{std::max<std::size_t>(64, alignof(T))};
  struct release {
    index size = 0;
    void operator()(T* elements) const {
      std::destroy_n(elements, size);
      ::operator delete(elements, alignment);
    }
  };
  using memory = std::unique_ptr<T[], release>;

  static memory allocated(index size) {
    if (size == 0) return {};
    void* const bytes = ::operator new(static_cast<std::size_t>(size) * sizeof(T), alignment);
    memory elements(static_cast<T*>(bytes), release{0});  // none to destroy, should one throw
    std::uninitialized_default_construct_n(elements.get(), size);
    elements.get_deleter().size = size;
    return elements;
  }

  heads_shape shape_{0, 0, 0, 0};
  heads_order order_ = heads_order::bhld;
  memory elements_;
};

namespace detail {

template <class T>
heads_view<const T> as_heads(const heads_view<T>& view) {
  return view;
}
template <class T>
heads_view<const T> as_heads(const heads_view<const T>& view) {
  return view;
}
template <class T>
heads_view<const T> as_heads(const heads_array<T>& array) {
  return array.view();
}

/// What may stand for the query, key or value of many heads.
template <class V>
concept HeadsLike = requires(const V& v) { as_heads(v); };

/// What is read as heads, and what is refused with a message.
template <class V>
concept HeadsOrMatrix = HeadsLike<V> || EigenDense<V>;

}  // namespace detail
}  // namespace attn::inline ATTN_ABI
