// A cache of keys and values in pages of a pool, found through a block table a sequence: memory is
// taken as sequences grow, and what they have in common is kept once. And a view of such pages.
#pragma once

#include <attn/kv_cache.hpp>
#include <attn/page_pool.hpp>
#include <memory>
#include <span>
#include <utility>

namespace attn::inline ATTN_ABI {

/// Sequences in pages of a pool: all of a sequence's pages are full but the last. Sequences may
/// share pages; one that others refer to as well is never written to.
template <class T>
class paged_cache : public detail::growing_cache<paged_cache<T>, T> {
  using base = detail::growing_cache<paged_cache, T>;
  friend base;

 public:
  /// Empty sequences of at most `capacity` tokens each; the default is as many as the pool holds.
  /// What their tables need is taken here, pages are taken from the pool as sequences grow. Throws
  /// std::invalid_argument where there is no pool, or for a negative batch or capacity.
  paged_cache(std::shared_ptr<page_pool<T>> pool, index batch,
              std::optional<index> capacity = std::nullopt)
      : base("paged_cache", batch, checked(pool.get()).tokens_),
        pool_(std::move(pool)),
        capacity_(std::min(capacity.value_or(pool_->pages() * pool_->page_size()),
                           pool_->pages() * pool_->page_size())) {
    detail::require(capacity_ >= 0, "paged_cache has a capacity of ", capacity_,
                    " tokens, it should be at least 0");
    tables_.resize(static_cast<std::size_t>(batch * pages_for(capacity_)));
  }

  paged_cache(paged_cache&&) noexcept = default;  ///< leaves no sequences behind
  paged_cache& operator=(paged_cache&& other) noexcept {
    paged_cache taken(std::move(other));
    std::swap(static_cast<base&>(*this), static_cast<base&>(taken));
    pool_.swap(taken.pool_);
    std::swap(capacity_, taken.capacity_);
    tables_.swap(taken.tables_);
    return *this;
  }
  /// A copy would need pages, which there may not be: see fork.
  paged_cache(const paged_cache&) = delete;
  paged_cache& operator=(const paged_cache&) = delete;
  /// Gives all pages back.
  ~paged_cache() { this->clear(); }

  /// Tokens that a sequence may have.
  [[nodiscard]] index capacity() const { return capacity_; }
  /// The pool that pages come from.
  [[nodiscard]] const std::shared_ptr<page_pool<T>>& pool() const { return pool_; }
  /// Bytes of the pages that the sequences refer to, each counted once.
  [[nodiscard]] std::size_t bytes() const {
    if (this->batch() == 0) return 0;
    std::vector<bool> seen(static_cast<std::size_t>(pool_->pages()));
    std::size_t pages = 0;
    for (index b = 0; b < this->batch(); ++b) {
      for (const std::int32_t page : table(b)) {
        pages += seen[static_cast<std::size_t>(page)] ? 0 : 1;
        seen[static_cast<std::size_t>(page)] = true;
      }
    }
    return pages == 0 ? 0 : pages * (pool_->bytes() / seen.size());
  }

  /// The pages of sequence b, first to last. Throws std::invalid_argument where there is none.
  [[nodiscard]] std::span<const std::int32_t> table(index b) const {
    const index pages = pages_for(this->length(b));
    return {entries(b), static_cast<std::size_t>(pages)};
  }

  /// Where the tokens of sequence b lie: positions 0 … length(b) - 1. Holds until the cache
  /// changes. Throws std::invalid_argument where there is no sequence b.
  [[nodiscard]] stored_keys<T> sequence(index b) const {
    stored_keys<T> pages = pool_of(b).tokens_.at(0, this->length(b));
    pages.key_page = pool_->tokens_.key.strides().batch;
    pages.value_page = pool_->tokens_.value.strides().batch;
    pages.table = entries(b);
    pages.piece = pool_->page_size();
    pages.capacity = std::min(capacity_, pool_->pages() * pages.piece / this->batch());
    return pages;
  }

  /// Makes sequence `to` what sequence `from` is; what it was is given back. Full pages are shared,
  /// the last is copied where it is unfinished, so that both can go on. Throws
  /// std::invalid_argument where there is no such sequence, and std::length_error where the copy
  /// needs a page and none is free; the cache is then as before. Allocates nothing.
  void fork(index from, index to) {
    this->check_sequence(from);
    this->check_sequence(to);
    if (from == to) return;
    const index length = this->length_of(from), full = pool_->page_of(length);
    const bool unfinished = row_of(length) != 0;
    const auto mine = [&](std::int32_t page) { return pool_->count(page) == 1; };
    const auto given_up = table(to);
    detail::require_room(!unfinished || pool_->free_pages() > 0 ||
                             std::any_of(given_up.begin(), given_up.end(), mine),
                         "page_pool has no free page for the fork of sequence ", from);
    this->truncate(to, 0);
    for (index n = 0; n < full; ++n) {
      pool_->share(entries(from)[n]);
      entries(to)[n] = entries(from)[n];
    }
    if (unfinished) entries(to)[full] = copied(entries(from)[full], length);
    this->length_of(to) = length;
  }

  /// Makes each sequence b what sequence parents[b] was, as in a beam search, whose sequences go on
  /// from the best. All pages are shared; an unfinished one is copied when a sequence is appended
  /// to that is not the last to refer to it. Takes no page of the pool; allocates a copy of the
  /// tables for as long as it takes. Throws std::invalid_argument, the cache being as before, where
  /// parents are not one a sequence, each a sequence.
  void reorder(const integers& parents) {
    detail::require(parents.size() == this->batch(), "parents has ", parents.size(),
                    " entries, the cache has ", this->batch(), " sequences");
    for (index b = 0; b < this->batch(); ++b) {
      detail::require(parents[b] >= 0 && parents[b] < this->batch(), "parents[", b, "] is ",
                      parents[b], ", it should be within the ", this->batch(), " sequences");
    }
    std::vector<std::int32_t> tables(tables_.size());
    std::vector<index> lengths;
    lengths.reserve(this->lengths().size());
    for (index b = 0; b < this->batch(); ++b) {
      const std::span<const std::int32_t> pages = table(parents[b]);
      for (const std::int32_t page : pages) pool_->share(page);
      std::copy(pages.begin(), pages.end(), tables.begin() + b * pages_for(capacity_));
      lengths.push_back(this->length(parents[b]));
    }
    this->clear();  // parents may lie in what changes from here on
    tables_.swap(tables);
    this->lengths_.swap(lengths);
  }

 private:
  static const page_pool<T>& checked(const page_pool<T>* pool) {
    detail::require(pool != nullptr, "paged_cache has no page_pool");
    return *pool;
  }
  [[nodiscard]] const page_pool<T>& pool_of(index b) const {
    this->check_sequence(b);
    return *pool_;
  }
  [[nodiscard]] index row_of(index position) const {
    return position - pool_->page_of(position) * pool_->page_size();
  }
  [[nodiscard]] index pages_for(index length) const {
    return pool_->page_of(length + pool_->page_size() - 1);
  }
  [[nodiscard]] std::int32_t* entries(index b) { return tables_.data() + b * pages_for(capacity_); }
  [[nodiscard]] const std::int32_t* entries(index b) const {
    return tables_.data() + b * pages_for(capacity_);
  }

  /// The page of the sequence that the next token comes to, where it is unfinished and others refer
  /// to it as well; -1 otherwise.
  [[nodiscard]] std::int32_t shared_page(index b) const {
    const index length = this->length_of(b);
    if (row_of(length) == 0) return -1;
    const std::int32_t page = entries(b)[pool_->page_of(length)];
    return pool_->count(page) > 1 ? page : -1;
  }

  /// A page that starts with the tokens that a sequence of this length has in `page`.
  [[nodiscard]] std::int32_t copied(std::int32_t page, index length) {
    const std::int32_t copy = pool_->take();
    pool_->tokens_.key.copy(copy, page, row_of(length));
    pool_->tokens_.value.copy(copy, page, row_of(length));
    return copy;
  }

  /// Whether sequence first + n will have to copy its last page. The last of those who refer to it
  /// need not: the sequences before it have each left it for a copy by then.
  [[nodiscard]] bool will_copy(index first, index n, const detail::new_tokens<T>& tokens) const {
    const std::int32_t page = tokens.count(n) == 0 ? -1 : shared_page(first + n);
    if (page < 0) return false;
    index others = pool_->count(page) - 1;
    for (index before = 0; before < n; ++before) {
      if (tokens.count(before) > 0 && shared_page(first + before) == page) --others;
    }
    return others > 0;
  }

  void make_room(index first, const detail::new_tokens<T>& tokens) {
    index needed = 0;
    for (index n = 0; n < tokens.key.batch(); ++n) {
      const index length = this->length_of(first + n), count = tokens.count(n);
      detail::require_room(count <= capacity_ - length, "paged_cache has room for ", capacity_,
                           " tokens, sequence ", first + n, " has ", length, " and ", count,
                           " new ones");
      needed += pages_for(length + count) - pages_for(length);
      needed += will_copy(first, n, tokens) ? 1 : 0;
    }
    if (needed == 0) return;
    detail::require_room(needed <= pool_->free_pages(), "page_pool has ", pool_->free_pages(),
                         " free pages, the new tokens need ", needed);
    for (index n = 0; n < tokens.key.batch(); ++n) take_pages(first + n, tokens.count(n));
  }

  void take_pages(index b, index count) {
    const index length = this->length_of(b);
    if (const std::int32_t page = shared_page(b); count > 0 && page >= 0) {
      entries(b)[pool_->page_of(length)] = copied(page, length);
      pool_->give_back(page);
    }
    for (index n = pages_for(length); n < pages_for(length + count); ++n) {
      entries(b)[n] = pool_->take();
    }
  }

  [[nodiscard]] detail::token_place place(index b, index position) const {
    return {entries(b)[pool_->page_of(position)], row_of(position)};
  }
  [[nodiscard]] detail::stored_tokens<T>& tokens() { return pool_->tokens_; }

  void cut(index b, index length) {
    // The last first: so that whoever takes them next has them in the same order.
    for (index n = pages_for(this->length_of(b)); n > pages_for(length); --n) {
      pool_->give_back(entries(b)[n - 1]);
    }
  }

  std::shared_ptr<page_pool<T>> pool_;
  index capacity_;
  std::vector<std::int32_t> tables_;  // batch x pages_for(capacity), as many set as lengths need
};

/// Pages and tables of the caller's, to be read: nothing is copied, and what is referred to must
/// stay as it is for as long as the view is used.
template <class T>
class paged_view {
 public:
  using value_type = T;

  /// key: pages x heads x page_size x key_width, value: pages x heads x page_size x value_width, in
  /// any order of memory. tables: batch rows of equally many pages, one row after the other, of
  /// which as many count as the sequence's length needs. lengths: one a sequence. Throws
  /// std::invalid_argument where shapes differ, a length is negative or longer than a row's pages,
  /// or one of those pages is not there.
  template <detail::HeadsLike K, detail::HeadsLike V>
  paged_view(const K& key, const V& value, std::span<const std::int32_t> tables, integers lengths)
      : key_(detail::as_heads(key)),
        value_(detail::as_heads(value)),
        tables_(tables),
        lengths_(lengths) {
    const heads_shape &k = key_.shape(), &v = value_.shape();
    detail::require(v.batch == k.batch && v.heads == k.heads && v.length == k.length, "value has ",
                    v.batch, " pages of ", v.heads, " heads and ", v.length, " tokens, key has ",
                    k.batch, " of ", k.heads, " and ", k.length);
    detail::require(k.heads >= 1 && k.length >= 1, "pages have ", k.heads, " heads and ", k.length,
                    " tokens, both should be at least 1");
    const index size = std::ssize(tables);
    detail::require(batch() == 0 ? size == 0 : size % batch() == 0, "tables has ", size,
                    " entries, it should be as many for each of ", batch(), " sequences");
    if (batch() != 0) entries_ = size / batch();
    for (index b = 0; b < batch(); ++b) check_sequence(b);
  }

  /// Sequences.
  [[nodiscard]] index batch() const { return lengths_.size(); }
  /// Heads of key and value.
  [[nodiscard]] index heads() const { return key_.heads(); }
  /// Features of a key.
  [[nodiscard]] index key_width() const { return key_.width(); }
  /// Features of a value.
  [[nodiscard]] index value_width() const { return value_.width(); }
  /// Tokens of sequence b. Throws std::invalid_argument where there is none.
  [[nodiscard]] index length(index b) const {
    detail::require(b >= 0 && b < batch(), "sequence ", b, " is not within the ", batch(),
                    " of this paged_view");
    return lengths_[b];
  }

  /// Where the tokens of sequence b lie: positions 0 … length(b) - 1. Throws std::invalid_argument
  /// where there is none.
  [[nodiscard]] stored_keys<T> sequence(index b) const {
    return {.key = key_.data(),
            .value = value_.data(),
            .key_head = key_.strides().head,
            .key_row = key_.strides().row,
            .key_col = key_.strides().col,
            .key_page = key_.strides().batch,
            .value_head = value_.strides().head,
            .value_row = value_.strides().row,
            .value_col = value_.strides().col,
            .value_page = value_.strides().batch,
            .table = tables_.data() + b * entries_,
            .piece = key_.length(),
            .length = length(b),
            .capacity = entries_ * key_.length()};
  }

 private:
  void check_sequence(index b) const {
    const index length = lengths_[b], page_size = key_.length();
    detail::require(length >= 0 && length <= entries_ * page_size, "lengths[", b, "] is ", length,
                    ", it should be within 0 ... ", entries_ * page_size, ", its table's ",
                    entries_, " pages of ", page_size);
    for (index n = 0; n * page_size < length; ++n) {
      const index page = tables_[static_cast<std::size_t>(b * entries_ + n)];
      detail::require(page >= 0 && page < key_.batch(), "the table of sequence ", b, " has page ",
                      page, " at ", n, ", it should be within the ", key_.batch(), " pages");
    }
  }

  heads_view<const T> key_;
  heads_view<const T> value_;
  std::span<const std::int32_t> tables_;
  integers lengths_;
  index entries_ = 0;  // of a row of the tables
};
template <class K, class V>
paged_view(const K&, const V&, std::span<const std::int32_t>, integers)
    -> paged_view<typename decltype(detail::as_heads(std::declval<const K&>()))::value_type>;

}  // namespace attn::inline ATTN_ABI
