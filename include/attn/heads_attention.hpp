// Scaled dot-product attention of many heads of many sequences in one call, on views of memory that
// is already there: the same formula, masks, score changes and options as for one head.
#pragma once

#include <attn/heads_call.hpp>

namespace attn::inline ATTN_ABI {
namespace detail {

/// Keys and values in two views. A single sequence of them serves all of a batch.
template <class T>
class viewed_keys {
 public:
  viewed_keys(const heads_view<const T>& key, const heads_view<const T>& value, index batch,
              const options& options)
      : key_(key),
        value_(value),
        batch_(batch),
        lengths_(options.key_lengths),
        padding_(options.padding) {}

  [[nodiscard]] index batch() const { return batch_; }
  [[nodiscard]] index heads() const { return key_.heads(); }
  [[nodiscard]] index key_width() const { return key_.width(); }
  [[nodiscard]] index value_width() const { return value_.width(); }
  [[nodiscard]] index length() const { return key_.length(); }
  [[nodiscard]] index before(index b) const {
    return rows_before(key_.length(), length_of(b), padding_);
  }
  [[nodiscard]] stored_keys<T> sequence(index b) const {
    return keys_in(key_, value_, b, before(b), length_of(b));
  }

 private:
  [[nodiscard]] index length_of(index b) const { return lengths_ ? lengths_[b] : key_.length(); }

  heads_view<const T> key_;
  heads_view<const T> value_;
  index batch_;
  integers lengths_;
  padding padding_;
};

/// One head after the other by the stages, for types without a kernel.
template <class T, class M, class F>
void attend_heads_by_stages(const heads_call<T, viewed_keys<T>>& call,
                            const heads_view<const T>& key, const heads_view<const T>& value,
                            const M& mask, const F& score_mod) {
  using S = accumulator_t<T>;
  const index group = call.query.heads() / std::max<index>(1, key.heads());
  for (index b = 0; b < call.batch(); ++b) {
    const call_shape shape = call.shape(b);
    const index first = call.queries_before(b), first_key = call.keys_before(b);
    const auto tokens = [&](const heads_view<const T>& view, index h) {
      return view.head(view.batch() == 1 ? 0 : b, h / group).middleRows(first_key, shape.keys);
    };
    for (index h = 0; h < call.query.heads(); ++h) {
      auto out = call.out.head(b, h).middleRows(first, shape.queries);
      options of_head = call.options;
      of_head.log_sum_exp = {};
      of_head.weights = {};
      if (call.log_sum_exp.shape().size() > 0) {
        of_head.log_sum_exp = call.log_sum_exp.head(b, h).middleRows(first, shape.queries);
      }
      if (call.weights.shape().size() > 0) {
        of_head.weights =
            call.weights.head(b, h).block(first, first_key, shape.queries, shape.keys);
      }
      attend_by_stages<S>(out, call.query.head(b, h).middleRows(first, shape.queries),
                          tokens(key, h), tokens(value, h), mask, score_mod, of_head, shape,
                          head_place{static_cast<std::int32_t>(b), static_cast<std::int32_t>(h),
                                     static_cast<std::int32_t>(call.query.heads())});
    }
  }
  fill_padding(call);
}

/// What query, key, value and lengths must agree in.
template <class T>
void check_batch_and_lengths(const heads_view<const T>& query, const heads_view<const T>& key,
                             const heads_view<const T>& value, const options& options) {
  const heads_shape& n = query.shape();
  const auto fits_batch = [&](std::string_view name, const heads_view<const T>& view) {
    require(view.batch() == n.batch || view.batch() == 1, name, " has ", view.batch(),
            " sequences, query has ", n.batch, " (a single one would serve all)");
  };
  fits_batch("key", key);
  fits_batch("value", value);
  check_keys_and_values(key, value);
  check_lengths("options.key_lengths", options.key_lengths, n.batch, key.length());
  check_lengths("options.query_lengths", options.query_lengths, n.batch, n.length);
}

template <class T, class M, class F>
void heads_attention(const output& out, const heads_view<const T>& query,
                     const heads_view<const T>& key, const heads_view<const T>& value,
                     const M& mask, const F& score_mod, const options& options) {
  check_batch_and_lengths(query, key, value, options);
  const viewed_keys<T> stored(key, value, query.batch(), options);
  heads_call<T, viewed_keys<T>> call{query, stored, options};
  check_heads(call, "key");
  check_rules(call, key.length(), mask, score_mod);

  call_outputs outputs;
  outputs.add_input("query", query);
  outputs.add_input("key", key);
  outputs.add_input("value", value);
  check_outputs(outputs, call, out, key.length(), mask, score_mod);
  open_outputs(call, out, key.length());
  if constexpr (has_kernel<T>) {
    attend_heads(call, mask, score_mod);
  } else {
    attend_heads_by_stages(call, key, value, mask, score_mod);
  }
}

}  // namespace detail

/// Scaled dot-product attention of many heads: the formula of the call on matrices for head h of
/// every sequence, with the keys and values of head h / (heads / key heads).
///
/// query: B x H x Lq x d, key: B x Hk x Lk x d, value: B x Hk x Lk x dv, views or arrays of one
/// scalar type with any strides; Hk divides H. Key and value may have a single sequence for all;
/// where nothing looks at positions, the batch's queries as one sequence (`split_heads` without a
/// batch) have it read once.
/// Returns B x H x Lq x dv, its memory in the query's order.
///
/// mask, score_mod, options: as there; they see `position::batch` and `position::head`. A mask may
/// be a view or array of bool or numbers, B x H x Lq x Lk, with 1 for any of the first three.
/// options.log_sum_exp (B x H x Lq x 1) and weights (B x H x Lq x Lk) are views or arrays.
/// options.query_lengths and key_lengths say how long each sequence is. One pool of tasks serves
/// all.
///
/// Throws std::invalid_argument as there, before anything is computed or written.
template <class Q, class K, class V, class M, class F>
  requires(detail::HeadsAmong<Q, K, V> && !std::is_same_v<F, options>)
auto scaled_dot_product_attention(const Q& query, const K& key, const V& value, M&& mask,
                                  const F& score_mod, const attn::options& options = {}) {
  if constexpr (detail::require_heads<Q, K, V>()) {
    using T = detail::heads_scalar<Q>;
    const auto q = detail::as_heads(query);
    heads_array<T> out({0, 0, 0, 0}, detail::order_of(q));
    detail::heads_attention<T>(out, q, detail::as_heads(key), detail::as_heads(value),
                               as_mask(mask), score_mod, options);
    return out;
  }
}

/// The same without a score change.
template <class Q, class K, class V, class M>
  requires(detail::HeadsAmong<Q, K, V> && !std::is_same_v<std::remove_cvref_t<M>, options>)
auto scaled_dot_product_attention(const Q& query, const K& key, const V& value, M&& mask,
                                  const attn::options& options = {}) {
  return scaled_dot_product_attention(query, key, value, mask, identity{}, options);
}

/// The same without a mask.
template <class Q, class K, class V>
  requires detail::HeadsAmong<Q, K, V>
auto scaled_dot_product_attention(const Q& query, const K& key, const V& value,
                                  const attn::options& options = {}) {
  return scaled_dot_product_attention(query, key, value, none{}, identity{}, options);
}

/// The same into memory of the caller's: a view of B x H x Lq x dv, or an array, which is resized.
/// With a workspace in the options, a call on floats or doubles after the first of its kind
/// allocates nothing on the calling thread. Throws std::invalid_argument as well where out has
/// another shape or type, or shares memory with query, key or value; it is then untouched.
template <class Q, class K, class V, class M, class F>
  requires(detail::HeadsAmong<Q, K, V> && !std::is_same_v<F, options>)
void scaled_dot_product_attention_into(const output& out, const Q& query, const K& key,
                                       const V& value, M&& mask, const F& score_mod,
                                       const attn::options& options = {}) {
  if constexpr (detail::require_heads<Q, K, V>()) {
    detail::require(static_cast<bool>(out),
                    "out is nothing: it should be a heads_view or heads_array");
    detail::heads_attention<detail::heads_scalar<Q>>(out, detail::as_heads(query),
                                                     detail::as_heads(key), detail::as_heads(value),
                                                     as_mask(mask), score_mod, options);
  }
}

/// The same without a score change.
template <class Q, class K, class V, class M>
  requires(detail::HeadsAmong<Q, K, V> && !std::is_same_v<std::remove_cvref_t<M>, options>)
void scaled_dot_product_attention_into(const output& out, const Q& query, const K& key,
                                       const V& value, M&& mask,
                                       const attn::options& options = {}) {
  scaled_dot_product_attention_into(out, query, key, value, mask, identity{}, options);
}

/// The same without a mask.
template <class Q, class K, class V>
  requires detail::HeadsAmong<Q, K, V>
void scaled_dot_product_attention_into(const output& out, const Q& query, const K& key,
                                       const V& value, const attn::options& options = {}) {
  scaled_dot_product_attention_into(out, query, key, value, none{}, identity{}, options);
}

/// The plan of a call on heads, whatever its mask and score change.
template <detail::HeadsLike Q, detail::HeadsLike K, detail::HeadsLike V>
plan plan_of(const Q& query, const K& key, const V& value, const attn::options& options = {}) {
  using T = detail::heads_scalar<Q>;
  plan result;
  const auto q = detail::as_heads(query);
  const auto k = detail::as_heads(key);
  const auto v = detail::as_heads(value);
  detail::check_batch_and_lengths<T>(q, k, v, options);
  if constexpr (detail::has_kernel<T>) {
    const detail::viewed_keys<T> stored(k, v, q.batch(), options);
    const detail::heads_call<T, detail::viewed_keys<T>> call{q, stored, options};
    detail::check_heads(call, "key");
    result.fused = true;
    result.instruction_set = instruction_set();
    for (index b = 0; b < q.batch(); ++b) {
      const detail::sequence_tasks tasks =
          detail::tasks_of<T>(call(b), kernel::engine_on<T>(result.instruction_set), options);
      result.splits_keys = result.splits_keys || tasks.chunks > 0;
      result.tasks += tasks.count;
      result.workspace_bytes =
          std::max(result.workspace_bytes, static_cast<std::size_t>(tasks.memory) * sizeof(T));
    }
  } else {
    for (index b = 0; b < q.batch() * q.heads(); ++b) {
      result.tasks +=
          detail::stage_tasks<Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>>(q.length());
    }
  }
  return result;
}

}  // namespace attn::inline ATTN_ABI
