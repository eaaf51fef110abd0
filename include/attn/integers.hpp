// A list of integers of the caller's, referred to: lengths of sequences, where they start, pages.
#pragma once

#include <algorithm>
#include <attn/config.hpp>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <type_traits>

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

}  // namespace detail

/// A reference to 32- or 64-bit signed integers one after the other in memory: a std::vector,
/// std::array, std::span, C array or Eigen vector of std::int32_t, std::int64_t or attn::index.
/// What is referred to must outlive its use.
class integers {
 public:
  /// Nothing is given.
  constexpr integers() = default;

  /// Refers to a list.
  template <detail::ContiguousList List>
    requires(!std::is_same_v<List, integers>)
  integers(const List& list)  // NOLINT(google-explicit-constructor): `{.key_lengths = n}` converts
      : data_(std::data(list)), size_(static_cast<index>(std::size(list))) {
    using element = std::remove_cvref_t<decltype(*std::data(list))>;
    static_assert(std::is_integral_v<element> && std::is_signed_v<element> &&
                      (sizeof(element) == 4 || sizeof(element) == 8),
                  "attn: lengths should be a list of std::int32_t or std::int64_t.");
    given_ = true;
    wide_ = sizeof(element) == 8;
  }

  /// Whether a list was given.
  [[nodiscard]] constexpr explicit operator bool() const { return given_; }
  /// How many numbers it has.
  [[nodiscard]] constexpr index size() const { return size_; }
  /// One of them, without a check.
  [[nodiscard]] index operator[](index i) const {
    return wide_ ? read<std::int64_t>(i) : read<std::int32_t>(i);
  }

 private:
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

  const void* data_ = nullptr;
  index size_ = 0;
  bool given_ = false;
  bool wide_ = false;
};

}  // namespace attn::inline ATTN_ABI
