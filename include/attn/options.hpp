// What a call of attention may be told besides its matrices, mask and score change.
// A plain struct for designated initialisers: `{.alignment = attn::bottom_right, .scale = 0.05}`.
#pragma once

#include <Eigen/Core>
#include <attn/dropout.hpp>
#include <attn/executor.hpp>
#include <attn/integers.hpp>
#include <attn/output.hpp>
#include <attn/workspace.hpp>
#include <iterator>
#include <limits>
#include <optional>
#include <type_traits>

namespace attn::inline ATTN_ABI {

/// Attention sinks: logits without a value that take probability away from the keys, neither scaled
/// nor masked; one for every head, or one a head. -inf is no sink.
class sinks {
 public:
  /// None.
  constexpr sinks() = default;
  /// @{
  /// Copies, and is copied where it would be moved: it would refer to what it no longer keeps.
  sinks(const sinks&) = default;
  sinks& operator=(const sinks&) = default;
  /// @}
  ~sinks() = default;
  /// One for every head.
  sinks(double all) : all_(all) {}  // NOLINT(google-explicit-constructor): `{.sink = 1}`

  /// One a head: a std::vector, std::array, std::span, C array or Eigen vector of float or double,
  /// one number after the other. A list with a name must outlive the call; a temporary is kept.
  template <class List>
    requires(detail::ContiguousList<std::remove_cvref_t<List>> &&
             !std::is_same_v<std::remove_cvref_t<List>, sinks>)
  sinks(List&& list) {  // NOLINT(google-explicit-constructor): `{.sink = logits}` converts to it
    kept_ = detail::refer_or_keep(std::forward<List>(list),
                                  [&](const auto& referred) { refer_to(referred); });
  }
  /// Keeps a few numbers written on the spot, one a head; a single one is for every head.
  sinks(std::initializer_list<double> list)
      : sinks(list.size() == 1 ? sinks(*list.begin()) : sinks(std::vector<double>(list))) {}

  /// How many there are; -1 where one holds for every head.
  [[nodiscard]] constexpr index size() const { return size_; }
  /// @{
  /// The list, if there is one, and its bytes.
  [[nodiscard]] const void* data() const { return list_; }
  [[nodiscard]] std::size_t bytes() const {
    return size_ < 0 ? 0
                     : static_cast<std::size_t>(size_) * (wide_ ? sizeof(double) : sizeof(float));
  }
  /// @}
  /// That of a head.
  [[nodiscard]] double of(index head) const {
    if (size_ < 0) return all_;
    return wide_ ? static_cast<const double*>(list_)[head]
                 : double{static_cast<const float*>(list_)[head]};
  }

 private:
  template <class List>
  void refer_to(const List& list) {
    using element = std::remove_cvref_t<decltype(*std::data(list))>;
    static_assert(std::is_same_v<element, float> || std::is_same_v<element, double>,
                  "attn: sinks should be a list of float or double, one a head.");
    list_ = std::data(list);
    size_ = static_cast<index>(std::size(list));
    wide_ = std::is_same_v<element, double>;
  }

  std::shared_ptr<const void> kept_;
  double all_ = -std::numeric_limits<double>::infinity();
  const void* list_ = nullptr;
  index size_ = -1;
  bool wide_ = false;
};

/// Options of a call; every one has a default.
struct options {
  /// How queries are placed among the keys: `top_left`, `bottom_right` or `offset(n)`. Must be
  /// given where the numbers of queries and keys differ and the mask or score change looks at
  /// positions.
  attn::alignment alignment = {};
  /// For training: weights are left out at random, after they are normalised. The weights returned
  /// are those before.
  attn::dropout dropout = {};
  /// Who runs the call's tasks; by default the calling thread.
  attn::executor executor = {};
  /// For calls on heads: how many keys each sequence has; the others are hidden, whatever they are.
  /// `bottom_right` then places the last query at the last of these. By default all are there.
  integers key_lengths = {};
  /// Receives, for each query, m + ln l: the natural logarithm of the sum of exp(score) over the
  /// keys it sees and the sink; -inf where there are none of these.
  output log_sum_exp = {};
  /// For calls on heads: where sequences lie whose lengths are given, first (`padding::right`) or
  /// last among the rows of query, key and value (`padding::left`; a cache has its keys without
  /// padding). Masks, score changes and dropout count queries and keys from the first token of
  /// their sequence, but for masks in memory: these are refused on the left where they have a row
  /// or column for each. Results, weights and gradients lie where their queries and keys do.
  attn::padding padding = padding::right;
  /// For calls on heads: how many queries each sequence has; the other rows get 0, with log_sum_exp
  /// -inf. By default all are there.
  integers query_lengths = {};
  /// Sums every row in one order, whatever the number of queries: rows cut out of a call keep their
  /// bits. Without it, up to 8 queries against 8 times as many keys or more are summed in another
  /// order, which is faster, unless keys or values lie in columns, or weights or dropout are asked
  /// for.
  bool reproducible = false;
  /// What the products of queries and keys are multiplied by; by default 1/√d for d columns (1 for
  /// d = 0). Any finite number, also 0 and negative ones.
  std::optional<double> scale = std::nullopt;
  /// Attention sinks: a logit for every head or a list with one a head; -inf is none.
  sinks sink = {};
  /// Receives the weights, a row a query and a column a key, those of padding 0. Rows sum to 1 (to
  /// less with a sink).
  output weights = {};
  /// Memory to work in, kept from call to call; by default each call has its own.
  attn::workspace* workspace = nullptr;
};

}  // namespace attn::inline ATTN_ABI
