// A pool of pages of keys and values, each with a count of those who refer to it.
#pragma once

#include <attn/growing_cache.hpp>
#include <bit>

namespace attn::inline ATTN_ABI {

/// The shape of a pool: `{.heads = 8, .key_width = 128, .page_size = 16, .pages = 1024}`.
struct page_pool_shape {
  /// Heads of key and value, which may be fewer than those of the query.
  index heads = 1;
  /// Features of a key.
  index key_width = 0;
  /// Tokens that a page holds.
  index page_size = 16;
  /// Pages.
  index pages = 0;
  /// Features of a value; by default `key_width`.
  std::optional<index> value_width = std::nullopt;
};

template <class T>
class paged_cache;

/// Pages of keys and values, all memory for them taken at once, each with a count of those who
/// refer to it: 0 where it is free. Caches take and give back; so may a scheduler that has tables
/// of its own. A pool and its caches are for one thread at a time, but for reading.
template <class T>
class page_pool {
 public:
  /// All pages free. Throws std::invalid_argument for a negative extent, no heads, pages of no
  /// tokens, or more pages than 32 bits count; std::length_error for more elements than there are
  /// addresses for.
  explicit page_pool(const page_pool_shape& shape)
      : tokens_("page_pool", checked(shape), shape.value_width, detail::adjacent::blocks),
        references_(static_cast<std::size_t>(shape.pages)),
        free_(references_.size()) {
    for (index n = 0; n < shape.pages; ++n) {  // the first is taken first
      free_[static_cast<std::size_t>(n)] = static_cast<std::int32_t>(shape.pages - 1 - n);
    }
  }
  page_pool(const page_pool&) = delete;
  page_pool& operator=(const page_pool&) = delete;

  /// Pages, free or not.
  [[nodiscard]] index pages() const { return std::ssize(references_); }
  /// Pages that nobody refers to.
  [[nodiscard]] index free_pages() const { return std::ssize(free_); }
  /// Tokens that a page holds.
  [[nodiscard]] index page_size() const { return tokens_.key.shape().length; }
  /// Which of a sequence's pages a position lies in.
  [[nodiscard]] index page_of(index position) const {
    return shift_ >= 0 ? position >> shift_ : position / page_size();
  }
  /// Heads of key and value.
  [[nodiscard]] index heads() const { return tokens_.key.shape().heads; }
  /// Features of a key.
  [[nodiscard]] index key_width() const { return tokens_.key.shape().width; }
  /// Features of a value.
  [[nodiscard]] index value_width() const { return tokens_.value.shape().width; }
  /// Bytes of the memory for keys and values, free pages too.
  [[nodiscard]] std::size_t bytes() const { return tokens_.bytes(); }

  /// @{
  /// All keys, or values: pages x heads x page_size x width. In memory all pages of a head lie side
  /// by side, so that a sequence whose pages follow one another is read as if it had none.
  [[nodiscard]] heads_view<T> keys() { return tokens_.key.view(); }
  [[nodiscard]] heads_view<const T> keys() const { return tokens_.key.view(); }
  [[nodiscard]] heads_view<T> values() { return tokens_.value.view(); }
  [[nodiscard]] heads_view<const T> values() const { return tokens_.value.view(); }
  /// @}

  /// How many refer to a page. Throws std::invalid_argument where there is no such page.
  [[nodiscard]] index references(index page) const {
    check_page(page);
    return count(page);
  }

  /// A free page, to which then one refers. Throws std::length_error where there is none.
  [[nodiscard]] std::int32_t take() {
    detail::require_room(!free_.empty(), "page_pool has ", pages(), " pages, none of them is free");
    const std::int32_t page = free_.back();
    free_.pop_back();
    count(page) = 1;
    return page;
  }

  /// One more refers to a page. Throws std::invalid_argument where nobody does yet.
  void share(index page) {
    check_in_use(page);
    ++count(page);
  }

  /// One fewer refers to a page; the last one frees it. Only for what the caller has taken or
  /// shared: pages of a cache are given back by the cache. Throws std::invalid_argument where
  /// nobody refers to it.
  void give_back(index page) {
    check_in_use(page);
    if (--count(page) == 0) free_.push_back(static_cast<std::int32_t>(page));
  }

 private:
  friend class paged_cache<T>;

  static heads_shape checked(const page_pool_shape& shape) {
    detail::require(shape.page_size >= 1, "page_pool has a page_size of ", shape.page_size,
                    ", it should be at least 1");
    detail::require(shape.pages <= std::numeric_limits<std::int32_t>::max(), "page_pool has ",
                    shape.pages, " pages, it should be as many as 32 bits count");
    return {shape.pages, shape.heads, shape.page_size, shape.key_width};
  }

  [[nodiscard]] std::int32_t& count(index page) {
    return references_[static_cast<std::size_t>(page)];
  }
  [[nodiscard]] std::int32_t count(index page) const {
    return references_[static_cast<std::size_t>(page)];
  }
  void check_page(index page) const {
    detail::require(page >= 0 && page < pages(), "page ", page, " is not within the ", pages(),
                    " of this page_pool");
  }
  void check_in_use(index page) const {
    check_page(page);
    detail::require(count(page) > 0, "page ", page, " of this page_pool is free");
  }

  detail::stored_tokens<T> tokens_;
  /// Of a power of 2 the exponent, else -1: divisions would take as long as a row's copy.
  int shift_ = std::popcount(std::size_t(page_size())) == 1
                   ? std::countr_zero(std::size_t(page_size()))
                   : -1;
  std::vector<std::int32_t> references_;
  std::vector<std::int32_t> free_;  // never longer than there are pages, for which it has room
};

}  // namespace attn::inline ATTN_ABI
