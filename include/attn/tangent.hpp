// Forward-mode differentiation of attention: its result and what that changes by where query, key
// and value change by given tangents, in one pass over keys and values.
#pragma once

#include <attn/gradient.hpp>

namespace attn::inline ATTN_ABI {

/// What query, key and value change by, each in the shape of its own; what is left empty does not
/// change. It refers to them: written within a call, it may name temporaries, else not.
struct tangents {
  input key = {};    ///< Lk x d
  input query = {};  ///< Lq x d
  input value = {};  ///< Lk x dv
};

/// `auto [out, out_tangent, log_sum_exp_tangent] = …`
template <class Out, class Lse>
struct value_and_tangent {
  Out out;                  ///< the result
  Out out_tangent;          ///< what it changes by
  Lse log_sum_exp_tangent;  ///< what the log-sum-exp changes by
};

namespace detail {

/// The views of a call in a direction.
template <class T>
struct tangent_views {
  heads_view<const T> query, key, value;
  heads_view<T> out, out_tangent, log_sum_exp, log_sum_exp_tangent;
};

template <class T>
heads_view<const T> tangent_view(std::string_view name, const input& given,
                                 const heads_shape& shape, bool as_heads) {
  if (given) given.check<T>(name, shape, as_heads);
  return given.view<T>(shape);
}

/// Runs a checked call.
template <class T, class M, class F>
void attend_with_tangents(const heads_call<T, viewed_keys<T>>& call, const tangent_views<T>& views,
                          const M& mask, const F& score_mod) {
  const simd set = instruction_set();
  const auto engine = kernel::gradient_engine_on<T>(set);
  const auto change = for_kernel(score_mod);
  const auto rules = kernel::make_gradient_rules<T>(set, mask, change);
  const index heads = call.query.heads();
  const kernel::row_blocks most{call.query.length(), engine.lanes};
  const index blocks = most.count();
  if (call.batch() * heads * blocks == 0) return;
  index numbers = 0;
  for (index b = 0; b < call.batch(); ++b) {
    numbers = std::max(numbers, engine.tangent_memory_size(call(b).first));
  }
  const auto problem = [&](index b, index h) {
    const sequence_call<T> s = call(b);
    kernel::tangent_problem<T> d;
    d.p = s.head(h);
    d.query = call.of_query(views.query, b, h);
    d.key = call.of_key(views.key, b, h);
    d.value = call.of_key(views.value, b, h);
    d.out = call.of_query(views.out_tangent, b, h);
    d.log_sum_exp = call.of_query(views.log_sum_exp_tangent, b, h);
    return d;
  };
  workspace own;
  workspace& memory = call.options.workspace != nullptr ? *call.options.workspace : own;
  run_tasks<1024>(call.batch() * heads * blocks, static_cast<std::size_t>(numbers) * sizeof(T),
                  memory, call.options.executor, [&](index i, void* where) {
                    const auto d = problem(i / blocks / heads, i / blocks % heads);
                    const kernel::row_blocks own_blocks{d.p.shape.queries, engine.lanes};
                    const index n = i % blocks;
                    if (n >= own_blocks.count()) return;
                    engine.tangent(d, rules, own_blocks.start(n), own_blocks.size(n),
                                   static_cast<T*>(where));
                  });
}

/// `open(views)` opens the outputs, once all is checked.
template <class T, class M, class F, class Open>
void attend_with_tangents(const tangents& by, const heads_view<const T>& query,
                          const heads_view<const T>& key, const heads_view<const T>& value,
                          const M& mask, const F& score_mod, const options& options, given_as form,
                          const Open& open) {
  check_batch_and_lengths(query, key, value, options);
  const viewed_keys<T> stored(key, value, query.batch(), options);
  heads_call<T, viewed_keys<T>> call{query, stored, options};
  check_heads(call, "key");
  check_rules(call, key.length(), mask, score_mod);
  require(!options.weights, "options.weights is not for calls with tangents");
  const bool as_heads = form == given_as::heads;
  tangent_views<T> views;
  views.query = tangent_view<T>("tangents.query", by.query, query.shape(), as_heads);
  views.key = tangent_view<T>("tangents.key", by.key, key.shape(), as_heads);
  views.value = tangent_view<T>("tangents.value", by.value, value.shape(), as_heads);
  call_outputs outputs;
  outputs.add_input("query", query);
  outputs.add_input("key", key);
  outputs.add_input("value", value);
  outputs.add_input("tangents.query", views.query);
  outputs.add_input("tangents.key", views.key);
  outputs.add_input("tangents.value", views.value);
  heads_shape shape = query.shape();
  shape.width = 1;
  if (as_heads) {
    outputs.check<T>("options.log_sum_exp", options.log_sum_exp, shape);
  } else {
    outputs.check<T>("options.log_sum_exp", options.log_sum_exp, shape.length, 1);
  }
  outputs.require_apart_from_rules(mask, score_mod, options.sink);
  open(views);
  call.out = views.out;
  call.log_sum_exp = views.log_sum_exp;
  if (options.query_lengths) {  // other rows are all written
    set_zero(views.out_tangent);
    set_zero(views.log_sum_exp_tangent);
  }
  attend_with_tangents(call, views, mask, score_mod);
  fill_padding(call);
}

}  // namespace detail

/// `scaled_dot_product_attention` for one head and its derivative in a direction (a
/// Jacobian-vector product): with the names of the formula there, a dot for what a number changes
/// by, and ẋ = scale (<q̇_i, k_j> + <q_i, k̇_j>),
///
///     ṡ_ij = score_mod'(x_ij) ẋ_ij                 0 where the mask hides (i, j)
///     μ_i  = Σ_j P_ij ṡ_ij                         what the log-sum-exp changes by
///     Ȯ_i  = Σ_j P_ij (ṡ_ij v_j + v̇_j) - μ_i O_i
///
/// in one pass, in memory that does not grow with the lengths. Score changes need a derivative, as
/// for `scaled_dot_product_attention_backward`; masks, biases and sinks do not change. With
/// dropout, the same weights are left out of both. Where a query sees no key, all is 0.
///
/// Values and sums are taken as they are: where sums overflow that the forward pass would shrink,
/// the result is inf or NaN here.
///
/// Returns out and out_tangent (Lq x dv) and log_sum_exp_tangent (Lq x 1). options.log_sum_exp is
/// written as ever; weights are refused. float and double. Throws std::invalid_argument as the
/// forward pass does, and where a tangent has not the shape and type of what it is for.
template <class Q, class K, class V, class M, class F>
  requires(!std::is_same_v<F, options>)
auto scaled_dot_product_attention_jvp(const tangents& by, const Eigen::DenseBase<Q>& query,
                                      const Eigen::DenseBase<K>& key,
                                      const Eigen::DenseBase<V>& value, M&& mask,
                                      const F& score_mod, const attn::options& options = {}) {
  using T = typename Q::Scalar;
  detail::require_gradient_type<T>();
  detail::require_fitting_types<Q, K, V>();
  const auto& seen = as_mask(mask);
  detail::checked_call<T>(query, key, value, seen, score_mod, options, {});
  const auto& q = detail::evaluated(query.derived());
  const auto& k = detail::evaluated(key.derived());
  const auto& v = detail::evaluated(value.derived());
  using matrix = detail::rows_by_cols<T, Q, V>;
  using vector = Eigen::Matrix<T, Eigen::Dynamic, 1>;
  value_and_tangent<matrix, vector> result;
  result.out.resize(query.rows(), value.cols());
  result.out_tangent.resize(query.rows(), value.cols());
  result.log_sum_exp_tangent.resize(query.rows());
  const auto open = [&](detail::tangent_views<T>& views) {
    views.out = one_head(result.out);
    views.out_tangent = one_head(result.out_tangent);
    views.log_sum_exp_tangent = one_head(result.log_sum_exp_tangent);
    if (!options.log_sum_exp) return;
    auto lse = options.log_sum_exp.template open<T>(query.rows(), 1);
    views.log_sum_exp = one_head(lse);
  };
  detail::attend_with_tangents<T>(by, one_head(q), one_head(k), one_head(v), seen, score_mod,
                                  options, detail::given_as::matrices, open);
  return result;
}

/// The same without a score change.
template <class Q, class K, class V, class M>
  requires(!std::is_same_v<std::remove_cvref_t<M>, options>)
auto scaled_dot_product_attention_jvp(const tangents& by, const Eigen::DenseBase<Q>& query,
                                      const Eigen::DenseBase<K>& key,
                                      const Eigen::DenseBase<V>& value, M&& mask,
                                      const attn::options& options = {}) {
  return scaled_dot_product_attention_jvp(by, query, key, value, mask, identity{}, options);
}

/// The same without a mask.
template <class Q, class K, class V>
auto scaled_dot_product_attention_jvp(const tangents& by, const Eigen::DenseBase<Q>& query,
                                      const Eigen::DenseBase<K>& key,
                                      const Eigen::DenseBase<V>& value,
                                      const attn::options& options = {}) {
  return scaled_dot_product_attention_jvp(by, query, key, value, none{}, identity{}, options);
}

/// The same for many heads of many sequences: tangents are views or arrays, and heads_arrays are
/// returned.
template <class Q, class K, class V, class M, class F>
  requires(detail::HeadsAmong<Q, K, V> && !std::is_same_v<F, options>)
auto scaled_dot_product_attention_jvp(const tangents& by, const Q& query, const K& key,
                                      const V& value, M&& mask, const F& score_mod,
                                      const attn::options& options = {}) {
  if constexpr (detail::require_heads<Q, K, V>()) {
    using T = detail::heads_scalar<Q>;
    detail::require_gradient_type<T>();
    const auto q = detail::as_heads(query);
    const auto k = detail::as_heads(key);
    const auto v = detail::as_heads(value);
    heads_shape shape = q.shape();
    shape.width = 1;
    value_and_tangent<heads_array<T>, heads_array<T>> result;
    const auto open = [&](detail::tangent_views<T>& views) {
      result.log_sum_exp_tangent.resize(shape);
      views.log_sum_exp_tangent = result.log_sum_exp_tangent.view();
      views.log_sum_exp = options.log_sum_exp.template open<T>(shape);
      heads_shape of_out = shape;
      of_out.width = v.width();
      result.out.resize(of_out, detail::order_of(q));
      result.out_tangent.resize(of_out, detail::order_of(q));
      views.out = result.out.view();
      views.out_tangent = result.out_tangent.view();
    };
    detail::attend_with_tangents<T>(by, q, k, v, as_mask(mask), score_mod, options,
                                    detail::given_as::heads, open);
    return result;
  }
}

/// The same without a score change.
template <class Q, class K, class V, class M>
  requires(detail::HeadsAmong<Q, K, V> && !std::is_same_v<std::remove_cvref_t<M>, options>)
auto scaled_dot_product_attention_jvp(const tangents& by, const Q& query, const K& key,
                                      const V& value, M&& mask, const attn::options& options = {}) {
  return scaled_dot_product_attention_jvp(by, query, key, value, mask, identity{}, options);
}

/// The same without a mask.
template <class Q, class K, class V>
  requires detail::HeadsAmong<Q, K, V>
auto scaled_dot_product_attention_jvp(const tangents& by, const Q& query, const K& key,
                                      const V& value, const attn::options& options = {}) {
  return scaled_dot_product_attention_jvp(by, query, key, value, none{}, identity{}, options);
}

}  // namespace attn::inline ATTN_ABI
