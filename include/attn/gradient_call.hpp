// The backward pass of a call on heads: what is checked of it, how its tasks are dealt out so that
// no two write to the same place at once, and how they are put together.
#pragma once

#include <attn/heads_call.hpp>
#include <attn/input.hpp>

namespace attn::inline ATTN_ABI {

/// Where the gradients of a call go; what is left empty is not computed. Plain matrices and arrays
/// are resized. Elements are of the query's type.
struct gradients {
  /// Of an additive mask: in its shape, summed over what it is broadcast over. What heads or
  /// sequences share is summed by one thread for every 1024 tokens, and sequences that share are
  /// cut into blocks as the longest is: other gradients may have other last digits than without.
  output bias = {};
  /// Of key, in its shape: with fewer heads than query, summed over those that share one.
  output key = {};
  /// Of query, in its shape.
  output query = {};
  /// Of the table of a `relative_bias`, in its shape.
  output relative_bias = {};
  /// Of options.sink: a vector with one a head, or with a single number where one sink holds for
  /// all; 0 where there is none.
  output sink = {};
  /// Of the slopes of an `alibi`: a vector with one a head, or with a single number.
  output slopes = {};
  /// Of value, in its shape.
  output value = {};
};

/// What the forward pass gave, and what came back for it: d loss / d out, and d loss / d lse where
/// the loss depends on the log-sum-exp as well. It refers to them: written within a call, it may
/// name temporaries, else not.
struct forward_pass {
  input log_sum_exp = {};           ///< of the forward pass
  input log_sum_exp_gradient = {};  ///< of the loss by it, where there is one
  input out = {};                   ///< of the forward pass
  input out_gradient = {};          ///< of the loss by the result
};

namespace detail {

/// Calls use(mask) for each part of a mask that is added to scores.
template <class M, class Use>
void each_additive(const M& mask, const Use& use) {
  if constexpr (requires { M::conjunction; }) {
    each_additive(mask.first, use);
    each_additive(mask.second, use);
  } else if constexpr (AdditiveMask<M>) {
    use(mask);
  }
}

/// The shape of a bias in memory, and whether it is heads of sequences.
struct bias_shape {
  heads_shape shape{0, 0, 0, 0};
  bool of_heads = false;
  bool in_memory = false;
};

template <class M>
bias_shape bias_shape_of(const M& mask) {
  bias_shape found;
  int count = 0;
  each_additive(mask, [&](const auto& part) {
    ++count;
    if constexpr (requires { part.of_heads; }) found = {part.shape(), part.of_heads, true};
  });
  require(count > 0, "gradients.bias is asked for, the mask has no bias");
  require(count == 1, "gradients.bias is asked for, the mask has ", count,
          " biases: add them up first");
  require(found.in_memory,
          "gradients.bias is asked for, the mask's bias is a function: give it as a matrix");
  return found;
}

/// The views of a backward pass: what it reads besides the inputs of the forward pass, and what it
/// writes.
template <class T>
struct gradient_views {
  heads_view<const T> out, log_sum_exp, out_gradient, log_sum_exp_gradient;
  heads_view<T> query, key, value, bias;
};

/// Parts of queries and of keys that a sequence is cut in, by its lengths alone.
inline index parts_of(const call_shape& shape) {
  constexpr index part = 1024, most = 8;
  return std::clamp<index>((std::max(shape.queries, shape.keys) + part - 1) / part, 1, most);
}

/// The backward pass of all heads of all sequences.
///
/// A task is a key head of a sequence and a part of its keys; in round r it goes over part
/// (n + r) mod parts of the queries. So no two tasks of a round add to the same gradients, and what
/// is added to a number comes in one order, whoever runs the tasks. Sequences or heads that share
/// what is added to belong to one task, which takes a few blocks of queries of each in turn: what
/// they share stays in the cache; they are cut in parts by the longest.
template <class T, class Stored>
class backward_call {
 public:
  backward_call(const heads_call<T, Stored>& forward, const gradient_views<T>& views)
      : forward_(forward),
        views_(views),
        group_(forward.stored.heads() == 0 ? 0 : forward.query.heads() / forward.stored.heads()) {
    for (index b = 0; b < forward.batch(); ++b) {
      const call_shape shape = forward.shape(b);
      longest_.queries = std::max(longest_.queries, shape.queries);
      longest_.keys = std::max(longest_.keys, shape.keys);
    }
    parts_ = parts_of(longest_);
    const auto serves_all = [&](const heads_view<T>& view) {
      return view.shape().size() > 0 && view.batch() == 1;
    };
    const bool one_key = !forward.starts && (serves_all(views.key) || serves_all(views.value));
    share_batch_ = one_key || serves_all(views.bias);
    share_heads_ = views.bias.shape().size() > 0 && views.bias.heads() == 1;
  }

  /// Tasks that leave sums of parameters' gradients.
  [[nodiscard]] index parameter_tasks() const {
    return forward_.batch() * forward_.query.heads() * parts_;
  }
  /// Where head h of sequence b leaves those of part n.
  [[nodiscard]] index parameter_task(index b, index h, index n) const {
    return (b * forward_.query.heads() + h) * parts_ + n;
  }
  [[nodiscard]] index parts() const { return parts_; }

  /// Head h of sequence b.
  [[nodiscard]] kernel::gradient_problem<T> problem(index b, index h) const {
    kernel::gradient_problem<T> g;
    g.p = forward_(b).head(h);
    g.out = forward_.of_query(views_.out, b, h);
    g.log_sum_exp = forward_.of_query(views_.log_sum_exp, b, h);
    g.out_gradient = forward_.of_query(views_.out_gradient, b, h);
    g.log_sum_exp_gradient = forward_.of_query(views_.log_sum_exp_gradient, b, h);
    g.query = forward_.of_query(views_.query, b, h);
    g.key = forward_.of_key(views_.key, b, h);
    g.value = forward_.of_key(views_.value, b, h);
    g.bias = tokens_of(views_.bias, b, 0)
                 .moved(views_.bias.heads() == 1 ? 0 : h * views_.bias.strides().head);
    if (views_.bias.length() == 1) g.bias.row_stride = 0;
    return g;
  }

  /// `parameters`: count numbers for each of `parameter_tasks`, or nothing.
  void run(const kernel::gradient_functions<T>& engine, const kernel::gradient_rules<T>& rules,
           workspace& memory, double* parameters, index count) const {
    const index batch = forward_.batch(), key_heads = forward_.stored.heads();
    index numbers = 0;
    for (index b = 0; b < batch && group_ > 0; ++b) {
      numbers = std::max(numbers, engine.memory_size(problem(b, 0)));
    }
    const index batches = share_batch_ ? 1 : batch;
    const index groups = share_heads_ ? 1 : key_heads;
    for (index round = 0; round < parts_; ++round) {
      run_tasks<1024>(batches * groups * parts_, static_cast<std::size_t>(numbers) * sizeof(T),
                      memory, forward_.options.executor, [&](index i, void* where) {
                        run_task(engine, rules, share_of(i, round), parameters, count,
                                 static_cast<T*>(where));
                      });
    }
  }

 private:
  /// Sequences and query heads [first, last), and parts of their keys and queries.
  struct share {
    index first_batch, last_batch, first_head, last_head, part, round;
  };

  [[nodiscard]] share share_of(index i, index round) const {
    const index heads = forward_.query.heads();
    const index groups = share_heads_ ? 1 : forward_.stored.heads();
    const index h = i / parts_ % groups * group_;
    const index b = i / parts_ / groups;
    return {share_batch_ ? 0 : b,
            share_batch_ ? forward_.batch() : b + 1,
            h,
            share_heads_ ? heads : h + group_,
            i % parts_,
            round};
  }

  void run_task(const kernel::gradient_functions<T>& engine, const kernel::gradient_rules<T>& rules,
                const share& of, double* parameters, index count, T* memory) const {
    const bool shares = share_batch_ || share_heads_;
    const call_shape shape = share_batch_ ? longest_ : forward_.shape(of.first_batch);
    const index parts = parts_of(shape);
    if (of.part >= parts || of.round >= parts) return;
    const index tiles = (shape.keys + engine.keys_a_tile - 1) / engine.keys_a_tile;
    const index begin = tiles * of.part / parts * engine.keys_a_tile;
    const index end = tiles * (of.part + 1) / parts * engine.keys_a_tile;
    const kernel::row_blocks blocks{shape.queries, engine.lanes};
    const index queries = (of.part + of.round) % parts;
    const index last = blocks.count() * (queries + 1) / parts;
    const index step = shares ? 4 : last + 1;
    for (index n = blocks.count() * queries / parts; n < last; n += step) {
      for (index b = of.first_batch; b < of.last_batch; ++b) {
        for (index h = of.first_head; h < of.last_head; ++h) {
          kernel::gradient_problem<T> g = problem(b, h);
          if (count > 0) g.parameters = parameters + parameter_task(b, h, of.part) * count;
          const index last_key = std::min<index>(end, g.p.shape.keys);
          for (index i = n; i < std::min(n + step, last) && begin < last_key; ++i) {
            const index first = blocks.start(i);
            const index rows = std::min(blocks.size(i), g.p.shape.queries - first);
            if (rows > 0) engine.backward(g, rules, first, rows, begin, last_key, memory);
          }
        }
      }
    }
  }

  const heads_call<T, Stored>& forward_;
  const gradient_views<T>& views_;
  index group_ = 0;
  call_shape longest_;
  index parts_ = 1;
  bool share_batch_ = false;
  bool share_heads_ = false;
};

/// d loss / d sink = -Σ_i exp(sink - lse_i) · δ_i, summed over the sequences, for each head. A row
/// that sees nothing has lse_i = sink and an out of 0, against which even a gradient of NaN weighs
/// nothing.
template <class T, class Call>
void add_sink_gradients(const Call& call, index batch, index heads, bool one_for_all, T* to,
                        index stride) {
  for (index h = 0; h < heads; ++h) {
    double sum = 0;
    for (index b = 0; b < batch; ++b) {
      const kernel::gradient_problem<T> g = call.problem(b, h);
      if (g.p.sink == -std::numeric_limits<T>::infinity()) continue;
      for (index i = 0; i < g.p.shape.queries; ++i) {
        double delta = g.log_sum_exp_gradient.data == nullptr
                           ? 0.0
                           : -double{*g.log_sum_exp_gradient.at(i, 0)};
        const double lse{*g.log_sum_exp.at(i, 0)};
        for (index c = 0; c < g.p.value_depth; ++c) {
          const T gradient = *g.out_gradient.at(i, c);
          if (gradient == T(0) || (lse == double{g.p.sink} && *g.out.at(i, c) == T(0))) continue;
          delta += double{gradient} * double{*g.out.at(i, c)};
        }
        if (delta != 0) sum -= std::exp(double{g.p.sink} - lse) * delta;
      }
    }
    T& sink = to[one_for_all ? 0 : h * stride];
    sink = static_cast<T>(double{sink} + sum);
  }
}

}  // namespace detail
}  // namespace attn::inline ATTN_ABI
