// What a call writes to: checked to lie apart from all that it reads, before anything is written.
#pragma once

#include <algorithm>
#include <attn/heads.hpp>
#include <attn/mask.hpp>
#include <attn/memory_overlap.hpp>
#include <attn/options.hpp>
#include <attn/output.hpp>
#include <attn/score_mod.hpp>
#include <cstdint>
#include <type_traits>

namespace attn::inline ATTN_ABI::detail {

/// Calls use(name, bytes) for what a mask, a score change and sinks have in memory.
template <class M, class F, class Use>
void each_rule_in_memory(const M& mask, const F& score_mod, const sinks& sink, const Use& use) {
  each_in_memory(mask, [&](const auto& part) {
    using element = std::remove_reference_t<decltype(*part.data(0, 0))>;
    use("mask", footprint_of(heads_view<element>(part.data(0, 0), part.shape(), part.strides())));
  });
  each_table(score_mod, [&](const auto& table) { use("relative_bias", footprint_of(table)); });
  const auto begin = reinterpret_cast<std::uintptr_t>(sink.data());
  use("options.sink", footprint{begin, begin + sink.bytes(), 0, sink.bytes()});
}

/// The outputs of a call, checked one after the other before any is opened: they should have the
/// right shapes and lie apart from the inputs, which come first, and from one another.
class call_outputs {
 public:
  /// A matrix, or heads.
  template <class M>
  void add_input(const char* name, const M& read) {
    add_input(name, footprint_of(read));
  }
  void add_input(const char* name, const footprint& bytes) {
    inputs_[input_count_++] = {name, bytes, nullptr};
  }

  /// @{
  /// An output, if it is asked for: a matrix whose shape was found right, heads, or a matrix.
  template <class S>
  void add(const char* name, const output& target) {
    if (target) add(name, target, target.now<S>());
  }
  template <class S>
  void check(const char* name, const output& target, const heads_shape& shape) {
    if (!target) return;
    target.check<S>(name, shape);
    add(name, target, target.now_heads<S>());
  }
  template <class S>
  void check(const char* name, const output& target, index rows, index cols) {
    if (!target) return;
    target.check<S>(name, rows, cols);
    add(name, target, target.now<S>());
  }
  /// @}

  /// Whether an output that was checked overlaps memory.
  [[nodiscard]] bool overlap(const footprint& bytes) const {
    return std::any_of(outputs_, outputs_ + count_,
                       [&](const auto& output) { return may_overlap(output.bytes, bytes); });
  }

  /// More that is read: throws where an output that was checked overlaps it.
  void require_apart_from(const char* name, const footprint& bytes) const {
    for (int i = 0; i < count_; ++i) {
      require(!may_overlap(outputs_[i].bytes, bytes), outputs_[i].name, " overlaps ", name,
              " in memory: it would be written while that is read");
    }
  }

  /// The same for what a mask, a score change and sinks have in memory.
  template <class M, class F>
  void require_apart_from_rules(const M& mask, const F& score_mod, const sinks& sink) const {
    each_rule_in_memory(mask, score_mod, sink, [&](const char* name, const footprint& bytes) {
      require_apart_from(name, bytes);
    });
  }

 private:
  /// What an input or output takes of memory, and under what name.
  struct named_memory {
    const char* name;  // a literal: there is nothing to construct, which small calls would feel
    footprint bytes;
    const output* target;  // of what is written
  };

  template <class Now>
  void add(const char* name, const output& target, const Now& now) {
    const footprint bytes = footprint_of(now);
    require(!overlaps_itself(now, bytes), name, " has strides with which its elements overlap");
    for (int i = 0; i < input_count_; ++i) {
      require(!may_overlap(bytes, inputs_[i].bytes), name, " overlaps ", inputs_[i].name,
              " in memory: it would be written while that is read");
    }
    for (int i = 0; i < count_; ++i) {
      require(!target.is_same_as(*outputs_[i].target) && !may_overlap(bytes, outputs_[i].bytes),
              name, " overlaps ", outputs_[i].name, " in memory: both would be written there");
    }
    outputs_[count_++] = {name, bytes, &target};
  }

  static constexpr int most = 12;
  named_memory inputs_[most];
  named_memory outputs_[most];
  int input_count_ = 0;
  int count_ = 0;
};

}  // namespace attn::inline ATTN_ABI::detail
