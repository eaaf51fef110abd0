// Runs the fused kernel on all heads of all sequences of a call: what the tasks are, whose memory
// they work in, and how the parts of a split sequence are put together.
#pragma once

#include <attn/derivative.hpp>
#include <attn/held_matrix.hpp>
#include <attn/kernel/dispatch.hpp>
#include <attn/kernel/merge.hpp>
#include <attn/options.hpp>
#include <attn/score_mod.hpp>
#include <bit>
#include <optional>

namespace attn::inline ATTN_ABI::detail {

/// Without memory there are no strides: nothing may be added to a null pointer.
template <class T, class M>
kernel::strided<T> strided_view(M& matrix) {
  if (matrix.data() == nullptr) return {};
  return {matrix.data(), matrix.rowStride(), matrix.colStride()};
}

/// The stride between the columns of `m`, or of what it is evaluated to.
template <class M>
index col_stride_of(const M& m) {
  if constexpr (PlainMatrix<M> || MatrixView<M>) {
    return m.colStride();
  } else {
    return M::IsRowMajor ? 1 : m.rows();
  }
}

/// A score change as the kernel calls it.
template <class F>
struct kernel_change {
  const F* score_mod;

  template <class T>
  T operator()(T s, position at) const {
    return change(*score_mod, s, at);
  }
  template <class T>
  T derivative(T s, position at) const {
    return detail::derivative(*score_mod, s, at);
  }
  [[nodiscard]] index parameters() const { return parameters_of(*score_mod); }
  template <class T>
  void add_parameter_gradient(T s, position at, T gradient, double* to) const {
    detail::add_parameter_gradient(*score_mod, s, at, gradient, to);
  }
};

template <class F>
auto for_kernel(const F& score_mod) {
  if constexpr (std::is_same_v<F, identity>) {
    return kernel::no_change{};
  } else {
    return kernel_change<F>{&score_mod};
  }
}

/// One sequence of a call: the problem of its first head, with its sink, and the way from head to
/// head.
template <class S>
struct sequence_call {
  kernel::problem<S> first;
  index heads = 1;
  index key_heads = 1;
  index query_head = 0;  // strides, in elements
  index key_head = 0;
  index value_head = 0;
  index out_head = 0;
  index log_sum_exp_head = 0;
  index weights_head = 0;
  const attn::sinks* sinks = nullptr;  // one or one a head
  index queries_a_turn = 0;            // of a head, before the next has its turn; 0: all
  index capacity = 0;                  // keys that there will be at most, where that is known

  [[nodiscard]] index group() const { return heads / key_heads; }
  /// Chunks lie on a fixed grid of keys; those that are no longer in memory are left out.
  [[nodiscard]] index first_chunk() const { return first.first_key / kernel::keys_a_chunk; }

  /// With all the keys that there can be, and as many more as a first chunk may lack.
  [[nodiscard]] sequence_call when_full() const {
    sequence_call full = *this;
    const index keys = (first_chunk() + 1) * kernel::keys_a_chunk + capacity;
    full.first.shape.keys =
        static_cast<std::int32_t>(std::min<index>(keys, std::numeric_limits<std::int32_t>::max()));
    return full;
  }

  [[nodiscard]] kernel::problem<S> head(index h) const {
    kernel::problem<S> p = first;
    if (h == 0) return p;
    const index key = h / group();
    p.query = p.query.moved(h * query_head);
    p.memory.key = p.memory.key.moved(key * key_head);
    p.memory.value = p.memory.value.moved(key * value_head);
    p.out = p.out.moved(h * out_head);
    p.log_sum_exp = p.log_sum_exp.moved(h * log_sum_exp_head);
    p.weights = p.weights.moved(h * weights_head);
    p.head += static_cast<std::int32_t>(h);
    p.sink = static_cast<S>(sinks->of(p.head));
    return p;
  }

  /// `count` heads from h on, which share a key head, and chunk n of their keys.
  [[nodiscard]] kernel::query_group<S> chunk(index h, index count, index n) const {
    kernel::query_group<S> of;
    of.p = head(h);
    of.heads = count;
    of.query_head = query_head;
    of.begin = (first_chunk() + n) * kernel::keys_a_chunk;
    of.end = std::min<index>(of.begin + kernel::keys_a_chunk, first.shape.keys);
    of.into_first_cache = first_cache_takes_much();
    return of;
  }
};

/// The tasks of a sequence: for each head its blocks of queries, or where few queries meet many
/// keys, for some heads together that share keys the chunks of these.
struct sequence_tasks {
  kernel::row_blocks blocks;
  index chunks = 0;    // 0: the keys are not split
  index together = 1;  // heads
  index count = 0;     // tasks
  index partials = 0;  // numbers that the chunks leave
  index memory = 0;    // numbers that a task works in

  /// Blocks of queries of a head before the next has its turn.
  [[nodiscard]] index blocks_a_turn(index queries) const {
    const index rows = kernel::vectors_a_block * blocks.lanes;
    return queries == 0 ? blocks.count() : (queries + rows - 1) / rows;
  }
  /// How many times heads go together in a group.
  [[nodiscard]] index parts(index group) const { return (group + together - 1) / together; }
  /// Numbers that one chunk leaves at most: out, highest and sum of every row.
  template <class S>
  [[nodiscard]] index results(const kernel::problem<S>& p) const {
    return together * p.shape.queries * (p.value_depth + 2);
  }
};

/// Few queries leave most lanes idle where the lanes are queries; more than half of these pay for
/// their sums along the lanes only where many keys come from memory. Measured.
inline constexpr index few_queries = 8;
constexpr bool few_against(index queries, index keys, index lanes) {
  return 2 * queries <= lanes ? keys >= 8 * queries : queries <= lanes && keys >= 512;
}

/// Rows that go over keys and values together: more are bound by arithmetic, not by memory.
inline constexpr index most_rows_together = 32;

/// Whether the keys of a sequence are split. By the numbers of queries, keys and lanes, whether
/// keys and values lie in rows, and whether weights or dropout are asked for; not by batch, heads
/// or threads, so that a row has the same bits whatever these are.
template <class S>
bool splits_keys(const sequence_call<S>& s, index lanes, const options& options) {
  const kernel::problem<S>& p = s.first;
  const bool rows_lie_together = (p.memory.key.col_stride == 1 || p.depth <= 1) &&
                                 (p.memory.value.col_stride == 1 || p.value_depth <= 1);
  return !options.reproducible && !options.weights && !p.dropout && rows_lie_together &&
         s.heads > 0 && p.shape.queries > 0 && p.shape.queries <= few_queries &&
         few_against(p.shape.queries, p.shape.keys, lanes);
}

template <class S>
sequence_tasks tasks_of(const sequence_call<S>& s, const kernel::engine_functions<S>& engine,
                        const options& options) {
  sequence_tasks tasks;
  const kernel::problem<S>& p = s.first;
  if (splits_keys(s, engine.lanes, options)) {
    tasks.chunks = std::max<index>(
        1, (p.shape.keys + kernel::keys_a_chunk - 1) / kernel::keys_a_chunk - s.first_chunk());
    tasks.together = std::min(s.group(), std::max<index>(1, most_rows_together / p.shape.queries));
    tasks.count = s.key_heads * tasks.parts(s.group()) * tasks.chunks;
    tasks.partials = tasks.count * tasks.results(p);
    tasks.memory = engine.decode_memory_size(p, tasks.together);
  } else {
    tasks.blocks = {p.shape.queries, engine.lanes};
    tasks.count = s.heads * tasks.blocks.count();
    tasks.memory = p.shape.queries == 0 ? 0 : engine.memory_size(p);
  }
  return tasks;
}

/// Task i of a sequence whose keys are split, and where it leaves its results.
template <class S>
kernel::query_group<S> chunk_of(const sequence_call<S>& s, const sequence_tasks& tasks, index i,
                                S* partials) {
  const index part = i / tasks.chunks;
  const index parts = tasks.parts(s.group());
  const index within = part % parts * tasks.together;
  const index count = std::min(tasks.together, s.group() - within);
  kernel::query_group<S> chunk =
      s.chunk(part / parts * s.group() + within, count, i % tasks.chunks);
  chunk.out = partials + i * tasks.results(chunk.p);
  chunk.highest = chunk.out + chunk.rows() * chunk.p.value_depth;
  chunk.sum = chunk.highest + chunk.rows();
  return chunk;
}

template <class S>
void run_task(const sequence_call<S>& s, const sequence_tasks& tasks, index i, S* partials,
              const kernel::engine_functions<S>& engine, const kernel::score_rules<S>& rules,
              void* memory) {
  if (tasks.chunks > 0) {
    engine.decode(chunk_of(s, tasks, i, partials), rules, static_cast<S*>(memory));
  } else {
    const index turn = tasks.blocks_a_turn(s.queries_a_turn);
    const index first = i / (s.heads * turn) * turn;  // of the blocks that all heads do now
    const index count = std::min(turn, tasks.blocks.count() - first);
    const index within = i - first * s.heads;
    const index block = first + within % count;
    engine.forward(s.head(within / count), rules, tasks.blocks.start(block),
                   tasks.blocks.size(block), static_cast<S*>(memory));
  }
}

/// Puts the chunks of a split sequence together.
template <class S>
void merge(const sequence_call<S>& s, const sequence_tasks& tasks, S* partials) {
  const index queries = s.first.shape.queries;
  const index value_depth = s.first.value_depth;
  for (index i = 0; i < tasks.count; i += tasks.chunks) {
    const kernel::query_group<S> first = chunk_of(s, tasks, i, partials);
    for (index row = 0; row < first.rows(); ++row) {
      const index head = first.p.head - s.first.head + row / queries;
      kernel::merge_chunks(first.out + row * value_depth, first.highest + row, first.sum + row,
                           tasks.chunks, tasks.results(first.p), s.head(head), row % queries);
    }
  }
}

/// The first task of each sequence, and where its partial results start.
class task_starts {
 public:
  struct start {
    index task = 0;
    index partial = 0;
  };

  task_starts(index batch, workspace& memory) {
    if (batch < few) {
      at_ = here_;
    } else {
      there_.emplace(memory, static_cast<std::size_t>(batch + 1) * sizeof(start));
      at_ = static_cast<start*>(there_->data());
    }
    batch_ = batch;
    at_[0] = {};
  }
  task_starts(const task_starts&) = delete;
  task_starts& operator=(const task_starts&) = delete;

  void add(index b, const sequence_tasks& tasks) {
    at_[b + 1] = {at_[b].task + tasks.count, at_[b].partial + tasks.partials};
  }
  [[nodiscard]] const start& operator[](index b) const { return at_[b]; }
  [[nodiscard]] const start& end() const { return at_[batch_]; }

  /// The sequence that a task belongs to.
  [[nodiscard]] index find(index task) const {
    const start* const after = std::upper_bound(
        at_, at_ + batch_ + 1, task, [](index i, const start& of) { return i < of.task; });
    return after - at_ - 1;
  }

 private:
  static constexpr index few = 16;
  start here_[few];
  std::optional<workspace::lease> there_;
  start* at_ = nullptr;
  index batch_ = 0;
};

/// run(i, memory) for i in [0, count), by the call's executor, with as many bytes to work in. What
/// fits into StackBytes needs no workspace.
template <std::size_t StackBytes, class Run>
void run_tasks(index count, std::size_t bytes, workspace& memory, const executor& executor,
               const Run& run) {
  if (bytes <= StackBytes) {
    executor(count, task([&](index i) {
               alignas(kernel::workspace_alignment) std::byte here[StackBytes];
               run(i, here);
             }));
  } else if (executor.is_serial()) {
    const workspace::lease lease(memory, bytes);
    for (index i = 0; i < count; ++i) run(i, lease.data());
  } else {
    executor(count, task([&](index i) {
               const workspace::lease lease(memory, bytes);
               run(i, lease.data());
             }));
  }
}

/// The quick way for a single task that fits on the stack; false where there is more to do.
template <std::size_t StackBytes, class S>
bool run_at_once(const sequence_call<S>& s, const kernel::engine_functions<S>& engine,
                 const kernel::score_rules<S>& rules, const options& options) {
  const sequence_tasks tasks = tasks_of<S>(s, engine, options);
  if (tasks.count != 1 || tasks.chunks > 0) return false;
  if (static_cast<std::size_t>(tasks.memory) * sizeof(S) > StackBytes) return false;
  alignas(kernel::workspace_alignment) std::byte here[StackBytes];
  void* const memory = here;
  engine.forward(s.first, rules, 0, tasks.blocks.rows, static_cast<S*>(memory));
  return true;
}

/// Runs every task of a call. `sequence(b)` gives sequence b.
template <std::size_t StackBytes, class S, class Sequence>
void run_kernel(simd set, index batch, const Sequence& sequence,
                const kernel::score_rules<S>& rules, const options& options) {
  const kernel::engine_functions<S> engine = kernel::engine_on<S>(set);
  // What a caller keeps is at once as large as a cache that grows will ever need.
  const auto grows = [&](const sequence_call<S>& s) {
    return options.workspace != nullptr && s.capacity > 0;
  };
  if (batch == 1) {
    const auto& s = sequence(0);
    if (!grows(s) && run_at_once<StackBytes, S>(s, engine, rules, options)) return;
  }
  workspace own;
  workspace& memory = options.workspace != nullptr ? *options.workspace : own;

  task_starts starts(batch, memory);
  index numbers = 0;
  index partials_when_full = 0;
  for (index b = 0; b < batch; ++b) {
    const auto& s = sequence(b);
    const sequence_tasks tasks = tasks_of<S>(s, engine, options);
    starts.add(b, tasks);
    numbers = std::max(numbers, tasks.memory);
    if (!grows(s)) continue;
    const sequence_call<S> when_full = s.when_full();
    const sequence_tasks full = tasks_of<S>(when_full, engine, options);
    numbers = std::max(numbers, full.memory);
    partials_when_full += full.partials;
    // Few keys are not split yet.
    if (full.chunks > 0) numbers = std::max(numbers, engine.memory_size(when_full.first));
  }
  // Enough for the few queries of any fixed sizes that Eigen keeps on the stack.
  alignas(kernel::workspace_alignment) std::byte few_partials[16384];
  void* partials = few_partials;
  std::optional<workspace::lease> many_partials;
  const std::size_t partial_bytes = static_cast<std::size_t>(starts.end().partial) * sizeof(S);
  const std::size_t bytes_when_full = static_cast<std::size_t>(partials_when_full) * sizeof(S);
  if (std::max(partial_bytes, bytes_when_full) > sizeof few_partials) {
    // Where it is not known how many there will be, it grows seldom as keys are added.
    many_partials.emplace(
        memory, partial_bytes <= bytes_when_full ? bytes_when_full : std::bit_ceil(partial_bytes));
    partials = many_partials->data();
  }
  const auto partials_of = [&](index b) { return static_cast<S*>(partials) + starts[b].partial; };

  run_tasks<StackBytes>(starts.end().task, static_cast<std::size_t>(numbers) * sizeof(S), memory,
                        options.executor, [&](index i, void* where) {
                          const index b = starts.find(i);
                          const auto& s = sequence(b);
                          run_task<S>(s, tasks_of<S>(s, engine, options), i - starts[b].task,
                                      partials_of(b), engine, rules, where);
                        });
  for (index b = 0; partial_bytes > 0 && b < batch; ++b) {
    const auto& s = sequence(b);
    const sequence_tasks tasks = tasks_of<S>(s, engine, options);
    if (tasks.chunks > 0) merge<S>(s, tasks, partials_of(b));
  }
}

}  // namespace attn::inline ATTN_ABI::detail
