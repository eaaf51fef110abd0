// A list of integers, the caller's or kept: lengths of sequences, where they start, pages.
#pragma once

#include <algorithm>
#include <attn/config.hpp>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <iterator>
#include <limits>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

namespace attn::inline ATTN_ABI {

namespace detail {

/// Has its elements one after the other in memory. Of Eigen's types those are vectors only: what
/// order a matrix lies in is not to be guessed.
template <class List>
concept ContiguousList =
    requires(const List& list) {
      std::data(list);
      std::size(list);
    } && (!requires { List::IsVectorAtCompileTime; } ||
          requires {
            requires bool(List::IsVectorAtCompileTime) && List::InnerStrideAtCompileTime == 1;
          });

/// refer(list); or where the list would be gone before it is used, being no lvalue, of what the
/// result keeps: a std::vector or Eigen vector that was moved in, else a copy of the elements.
template <class List, class Refer>
std::shared_ptr<const void> refer_or_keep(List&& list, const Refer& refer) {
  using type = std::remove_cvref_t<List>;
  const auto keep = [&](auto kept) {
    refer(*kept);
    return std::shared_ptr<const void>(std::move(kept));
  };
  if constexpr (std::is_lvalue_reference_v<List> || std::ranges::enable_borrowed_range<type>) {
    refer(list);
    return nullptr;
  } else if constexpr (requires { typename type::PlainObject; }) {
    using plain = typename type::PlainObject;
    return keep(std::make_shared<const plain>(std::forward<List>(list)));
  } else {
    using elements = std::vector<std::remove_cvref_t<decltype(*std::data(list))>>;
    if constexpr (std::is_same_v<type, elements>) {
      return keep(std::make_shared<const elements>(std::forward<List>(list)));
    } else {
      return keep(std::make_shared<const elements>(std::begin(list), std::end(list)));
    }
  }
}

}  // namespace detail

/// A reference to integers of 32 or 64 bits one after the other in memory: a std::vector,
/// std::array, std::span, C array or Eigen vector. Those without a sign are taken as if they had
/// one. A list with a name must outlive its use; a temporary is kept.
class integers {
 public:
  /// Nothing is given.
  constexpr integers() = default;
  /// @{
  /// Copies, and is copied where it would be moved: it would refer to what it no longer keeps.
  integers(const integers&) = default;
  integers& operator=(const integers&) = default;
  /// @}
  ~integers() = default;

  /// Refers to a list, or keeps it.
  template <class List>
    requires(detail::ContiguousList<std::remove_cvref_t<List>> &&
             !std::is_same_v<std::remove_cvref_t<List>, integers>)
  integers(List&& list) {  // NOLINT(google-explicit-constructor): `{.key_lengths = n}` converts
    kept_ = detail::refer_or_keep(std::forward<List>(list),
                                  [&](const auto& referred) { refer_to(referred); });
  }
  /// Keeps a few numbers written on the spot.
  integers(std::initializer_list<index> list) : integers(std::vector<index>(list)) {}

  /// Whether a list was given.
  [[nodiscard]] constexpr explicit operator bool() const { return given_; }
  /// How many numbers it has.
  [[nodiscard]] constexpr index size() const { return size_; }
  /// One of them, without a check.
  [[nodiscard]] index operator[](index i) const {
    return wide_ ? read<std::int64_t>(i) : read<std::int32_t>(i);
  }

 private:
  template <class List>
  void refer_to(const List& list) {
    using element = std::remove_cvref_t<decltype(*std::data(list))>;
    static_assert(std::is_integral_v<element> && (sizeof(element) == 4 || sizeof(element) == 8),
                  "attn: lengths, starts, counts and parents should be a list of integers of 32 or "
                  "64 bits.");
    data_ = std::data(list);
    size_ = static_cast<index>(std::size(list));
    given_ = true;
    wide_ = sizeof(element) == 8;
  }

  /// Whatever the type of as many bytes is called. A number beyond a 32-bit index becomes the
  /// farthest there is, which no length or position may be.
  template <class Element>
  [[nodiscard]] index read(index i) const {
    Element element;
    std::memcpy(&element, static_cast<const Element*>(data_) + i, sizeof element);
    using limits = std::numeric_limits<index>;
    if constexpr (sizeof(Element) > sizeof(index)) {
      element = std::clamp<Element>(element, limits::min(), limits::max());
    }
    return static_cast<index>(element);
  }

  std::shared_ptr<const void> kept_;
  const void* data_ = nullptr;
  index size_ = 0;
  bool given_ = false;
  bool wide_ = false;
};

}  // namespace attn::inline ATTN_ABI
