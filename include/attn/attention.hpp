// Scaled dot-product attention for one head: softmax(mask(change(scale · Q Kᵀ))) V in one call.
// float and double go through the fused kernel, everything else through the stages.
#pragma once

#include <Eigen/Core>
#include <attn/call_outputs.hpp>
#include <attn/kernel_call.hpp>
#include <attn/mask.hpp>
#include <attn/options.hpp>
#include <attn/score_mod.hpp>
#include <attn/stages.hpp>
#include <cmath>

namespace attn::inline ATTN_ABI {

// Files of one program may be built for different instruction sets: each calls what was built with
// its own flags.
namespace detail {

/// Which head of which sequence a call is for: what masks and score changes see in `position`.
struct head_place {
  std::int32_t batch = 0;
  std::int32_t head = 0;
  std::int32_t heads = 1;
};

/// One sink for all heads, or one a head.
template <class S>
void check_sinks(const sinks& sink, index heads) {
  require(sink.size() < 0 || sink.size() == heads, "sink has ", sink.size(),
          " logits, it should have one a head, of which there are ", heads, ", or be one number");
  for (index h = 0; h < (sink.size() < 0 ? 1 : heads); ++h) checked_sink<S>(sink.of(h));
}

/// Everything that can be wrong with a call but the widths of query and key, before anything is
/// computed.
template <class S, class Q, class K, class V, class M, class F>
call_shape checked_shape(const Q& query, const K& key, const V& value, const M& mask,
                         const F& score_mod, const options& options, const head_place& head) {
  require(value.rows() == key.rows(), "value has ", value.rows(), " rows, key has ", key.rows());
  const call_shape shape =
      make_call_shape(query.rows(), key.rows(), options.alignment,
                      positional_mask<M> || positional_score_mod<F, S>, head.heads);
  check(mask, shape);
  check(score_mod, shape);
  check_sinks<S>(options.sink, head.heads);
  if (options.scale) checked_scale<S>(*options.scale);
  check_dropout(options.dropout);
  require(!options.key_lengths && !options.query_lengths && options.padding == padding::right,
          "options.key_lengths, query_lengths and padding are for calls on heads of sequences");
  if (options.log_sum_exp) {
    options.log_sum_exp.template check<S>("options.log_sum_exp", query.rows(), 1);
  }
  if (options.weights) {
    options.weights.template check<S>("options.weights", query.rows(), key.rows());
  }
  return shape;
}

/// The same with the widths.
template <class S, class Q, class K, class V, class M, class F>
call_shape checked_call(const Q& query, const K& key, const V& value, const M& mask,
                        const F& score_mod, const options& options, const head_place& head) {
  require(key.cols() == query.cols(), "key has ", key.cols(), " columns, query has ", query.cols());
  return checked_shape<S>(query, key, value, mask, score_mod, options, head);
}

/// `m` itself where its elements lie in memory, else evaluated, once for all blocks.
template <class M>
auto evaluated(const M& m) -> decltype(auto) {
  if constexpr (PlainMatrix<M> || MatrixView<M>) {
    return (m);
  } else {
    return typename M::PlainObject(m);
  }
}

/// What products are multiplied by: the caller's scale, else 1/√d, and 1 for d = 0.
template <class S>
auto scale_factor(const options& options, index d) {
  using real = std::conditional_t<std::is_same_v<S, long double>, long double, double>;
  if (options.scale) return static_cast<real>(*options.scale);
  return d == 0 ? real(1) : 1 / std::sqrt(static_cast<real>(d));
}

/// Rows that the stages work on at once.
inline constexpr index rows_a_block = 64;

template <class Q>
index stage_tasks(index rows) {
  if constexpr (Q::RowsAtCompileTime != Eigen::Dynamic) return 1;
  return (rows + rows_a_block - 1) / rows_a_block;
}

/// Multiplies weights by 0 or 1 / (1 - probability).
template <class P>
void drop(P& weights, const dropout& of, const block_place& place) {
  using S = typename P::Scalar;
  const dropping draws(of);
  for (index i = 0; i < weights.rows(); ++i) {
    for (index j = 0; j < weights.cols(); ++j) {
      weights.coeffRef(i, j) *= S(draws.keeps(place.at(i, j)) ? draws.factor : 0);
    }
  }
}

/// The attention of blocks of queries, one after the other, by the stages: the scores of a block
/// are all there at once, so that memory grows with the keys.
template <class S, class O, class Q, class K, class V, class M, class F>
void attend_by_stages(O& out, const Q& query, const K& key, const V& value, const M& mask,
                      const F& score_mod, const options& options, const call_shape& shape,
                      const head_place& head) {
  using scalar = typename O::Scalar;
  const auto factor = scale_factor<S>(options, query.cols());
  const double sink = options.sink.of(head.head);
  auto lse = options.log_sum_exp.template open<S>(query.rows(), 1);
  auto weights = options.weights.template open<S>(query.rows(), key.rows());

  const auto attend = [&](const auto& rows, index first) {
    const block_place place{shape, head.batch, head.head, static_cast<std::int32_t>(first)};
    auto s = scale(score(rows, key), factor);
    change_each(s, score_mod, place);
    hide(s, mask, place);  // after the change: a soft cap would lift -inf
    if (options.log_sum_exp) lse.middleRows(first, s.rows()) = log_sum_exp(s, sink);
    auto p = softmax(std::move(s), sink);
    if (options.weights) weights.middleRows(first, p.rows()) = p;
    if (options.dropout.probability > 0) drop(p, options.dropout, place);
    return weighted_sum(p, value, mask, place, zeros_with(sink));
  };
  if constexpr (Q::RowsAtCompileTime != Eigen::Dynamic) {
    out = attend(query, 0).template cast<scalar>();
  } else {
    options.executor(stage_tasks<Q>(query.rows()), task([&](index block) {
                       const index first = block * rows_a_block;
                       const index rows = std::min(rows_a_block, query.rows() - first);
                       out.middleRows(first, rows) =
                           attend(query.middleRows(first, rows), first).template cast<scalar>();
                     }));
  }
}

/// Bytes that calls on these types may need, a block of queries, or 0 where they are not bounded.
template <class Q, class K, class V>
constexpr std::size_t bounded_bytes() {
  constexpr int depth = Q::MaxColsAtCompileTime;
  constexpr int keys = K::MaxRowsAtCompileTime;
  constexpr int value_depth = V::MaxColsAtCompileTime;
  if (depth == Eigen::Dynamic || keys == Eigen::Dynamic || value_depth == Eigen::Dynamic) return 0;
  return kernel::most_needed<typename Q::Scalar>(depth, value_depth, keys);
}

template <class O, class Q, class K, class V, class M, class F>
void attend_by_kernel(O& out, const Q& query, const K& key, const V& value, const M& mask,
                      const F& score_mod, const options& options, const call_shape& shape,
                      const head_place& head) {
  using S = typename O::Scalar;
  auto lse = options.log_sum_exp.template open<S>(query.rows(), 1);
  auto weights = options.weights.template open<S>(query.rows(), key.rows());
  if (shape.queries == 0) return;
  const sequence_call<S> s{
      .first = {
          .query = strided_view<const S>(query),
          .memory = {.key = strided_view<const S>(key), .value = strided_view<const S>(value)},
          .out = strided_view<S>(out),
          .log_sum_exp = strided_view<S>(lse),
          .weights = strided_view<S>(weights),
          .depth = query.cols(),
          .value_depth = value.cols(),
          .scale = static_cast<S>(scale_factor<S>(options, query.cols())),
          .sink = static_cast<S>(options.sink.of(head.head)),
          .dropout = dropping(options.dropout),
          .shape = shape,
          .batch = head.batch,
          .head = head.head}};
  const simd set = instruction_set();
  const auto change = for_kernel(score_mod);
  constexpr std::size_t small = 32768, most = 131072, bounded = bounded_bytes<Q, K, V>();
  constexpr std::size_t stack_bytes = bounded > small && bounded <= most ? bounded : small;
  run_kernel<stack_bytes>(
      set, 1, [&](index) -> const sequence_call<S>& { return s; },
      kernel::make_rules<S>(set, mask, change), options);
}

/// Whether calls on this scalar type have a fused kernel.
template <class Scalar>
inline constexpr bool has_kernel = std::is_same_v<Scalar, float> || std::is_same_v<Scalar, double>;

template <class O, class Q, class K, class V, class M, class F>
void attend(O& out, const Q& query, const K& key, const V& value, const M& mask, const F& score_mod,
            const options& options, const call_shape& shape, const head_place& head) {
  using scalar = typename Q::Scalar;
  if constexpr (has_kernel<scalar>) {
    attend_by_kernel(out, query, key, value, mask, score_mod, options, shape, head);
  } else {
    using S = accumulator_t<scalar>;
    attend_by_stages<S>(out, query, key, value, mask, score_mod, options, shape, head);
  }
}

/// What is wrong with a call and can be told from the types.
template <class Q, class K, class V>
constexpr void require_fitting_types() {
  require_real<Q>();
  static_assert(std::is_same_v<typename Q::Scalar, typename K::Scalar> &&
                    std::is_same_v<typename Q::Scalar, typename V::Scalar>,
                "attn: query, key and value should have one scalar type: cast the others.");
  static_assert(may_be_equal<Q::ColsAtCompileTime, K::ColsAtCompileTime>,
                "attn: key and query should have the same number of columns.");
  static_assert(may_be_equal<K::RowsAtCompileTime, V::RowsAtCompileTime>,
                "attn: value should have as many rows as key.");
}

/// Refuses outputs that share memory with an input or with one another.
template <class S, class Scalar, class Q, class K, class V, class M, class F>
void require_apart(const output& out, const options& options, const Q& query, const K& key,
                   const V& value, const M& mask, const F& score_mod) {
  if (!out && !options.log_sum_exp && !options.weights) return;
  call_outputs outputs;
  outputs.add_input("query", query);
  outputs.add_input("key", key);
  outputs.add_input("value", value);
  outputs.add<Scalar>("out", out);
  outputs.add<S>("options.log_sum_exp", options.log_sum_exp);
  outputs.add<S>("options.weights", options.weights);
  outputs.require_apart_from_rules(mask, score_mod, options.sink);
}

template <class Q, class K, class V, class M, class F>
auto attention(const Eigen::DenseBase<Q>& q, const Eigen::DenseBase<K>& k,
               const Eigen::DenseBase<V>& v, const M& mask, const F& score_mod,
               const options& options, const head_place& head = {}) {
  require_fitting_types<Q, K, V>();
  using scalar = typename Q::Scalar;
  const call_shape shape =
      checked_call<accumulator_t<scalar>>(q, k, v, mask, score_mod, options, head);
  const auto& query = evaluated(q.derived());
  const auto& key = evaluated(k.derived());
  const auto& value = evaluated(v.derived());
  require_apart<accumulator_t<scalar>, scalar>({}, options, query, key, value, mask, score_mod);
  rows_by_cols<scalar, Q, V> out;
  out.resize(q.rows(), v.cols());
  attend(out, query, key, value, mask, score_mod, options, shape, head);
  return out;
}

template <class Q, class K, class V, class M, class F>
void attention_into(const output& out, const Eigen::DenseBase<Q>& q, const Eigen::DenseBase<K>& k,
                    const Eigen::DenseBase<V>& v, const M& mask, const F& score_mod,
                    const options& options, const head_place& head = {}) {
  require_fitting_types<Q, K, V>();
  using scalar = typename Q::Scalar;
  const call_shape shape =
      checked_call<accumulator_t<scalar>>(q, k, v, mask, score_mod, options, head);
  require(static_cast<bool>(out), "out is nothing: it should be a matrix or view to write to");
  out.template check<scalar>("out", q.rows(), v.cols());
  const auto& query = evaluated(q.derived());
  const auto& key = evaluated(k.derived());
  const auto& value = evaluated(v.derived());
  require_apart<accumulator_t<scalar>, scalar>(out, options, query, key, value, mask, score_mod);
  auto opened = out.template open<scalar>(q.rows(), v.cols());
  attend(opened, query, key, value, mask, score_mod, options, shape, head);
}

}  // namespace detail

/// How a call is carried out.
struct plan {
  /// By the kernel; else by the stages, which hold the scores of a block of rows.
  bool fused = false;
  simd instruction_set = simd::portable;  ///< of the kernel
  bool splits_keys = false;         ///< few queries against many keys, in another order of sums
  index tasks = 0;                  ///< what the executor is given; a single small one bypasses it
  std::size_t workspace_bytes = 0;  ///< that the kernel works in, a thread; small ones on the stack
};

/// The plan of a call with these matrices, whatever its mask and score change: float and double go
/// through the kernel, other scalars through the stages.
template <class Q, class K, class V>
plan plan_of(const Eigen::DenseBase<Q>& query, const Eigen::DenseBase<K>& key,
             const Eigen::DenseBase<V>& value, const options& options = {}) {
  if constexpr (detail::has_kernel<typename Q::Scalar>) {
    using S = typename Q::Scalar;
    detail::sequence_call<S> s;
    s.first.depth = query.cols();
    s.first.value_depth = value.cols();
    s.first.memory.key.col_stride = detail::col_stride_of(key.derived());
    s.first.memory.value.col_stride = detail::col_stride_of(value.derived());
    s.first.shape = detail::make_call_shape(query.rows(), key.rows(), {}, false);
    s.first.dropout = detail::dropping(options.dropout);
    const simd set = instruction_set();
    const detail::sequence_tasks tasks = detail::tasks_of<S>(s, kernel::engine_on<S>(set), options);
    return {true, set, tasks.chunks > 0, tasks.count,
            static_cast<std::size_t>(tasks.memory) * sizeof(S)};
  } else {
    return {false, simd::portable, false, detail::stage_tasks<Q>(query.rows()), 0};
  }
}

/// Scaled dot-product attention of one head (Vaswani et al. 2017, §3.2.1):
///
///     x = scale · <q_i, k_j>                    scale: 1/√d unless options.scale says otherwise
///     s = score_mod(x, position)
///     s = s + bias_ij                           where the mask is additive
///     s = -inf where the mask hides (i, j)
///     P_ij = exp(s_ij - m_i) / l_i              m_i = max_j s_ij, l_i = Σ_j exp(s_ij - m_i)
///     O_i = Σ_j P_ij v_j
///
/// query: Lq x d, key: Lk x d, value: Lk x dv; rows are tokens. Any Eigen dense expressions of one
/// scalar type. Returns Lq x dv in that type, in the query's storage order; 16-bit types are
/// computed in float.
///
/// mask: what `as_mask` takes. score_mod: a function (score, position) -> score or (score) ->
/// score. A query that sees no key, or whose scores are all -inf, gives 0 and log_sum_exp -inf, or
/// what the sink is where there is one.
/// Nothing in a hidden key or value reaches the result, NaN and inf included. A NaN that is seen,
/// or a score of +inf, makes the row NaN.
///
/// Throws std::invalid_argument, before anything is computed or written, where shapes do not fit, a
/// mask or score change does not fit the call or needs an alignment that is not given, the scale or
/// the sink is not finite, or an output of the options has another type or size or shares memory
/// with an input, a mask, table or sinks, or another output. What a function of the caller's throws
/// reaches the caller; the outputs in the options are unspecified then.
template <class Q, class K, class V, class M, class F>
  requires(!std::is_same_v<F, options>)
auto scaled_dot_product_attention(const Eigen::DenseBase<Q>& query, const Eigen::DenseBase<K>& key,
                                  const Eigen::DenseBase<V>& value, M&& mask, const F& score_mod,
                                  const attn::options& options = {}) {
  return detail::attention(query, key, value, as_mask(mask), score_mod, options);
}

/// The same without a score change.
template <class Q, class K, class V, class M>
  requires(!std::is_same_v<std::remove_cvref_t<M>, options>)
auto scaled_dot_product_attention(const Eigen::DenseBase<Q>& query, const Eigen::DenseBase<K>& key,
                                  const Eigen::DenseBase<V>& value, M&& mask,
                                  const attn::options& options = {}) {
  return detail::attention(query, key, value, as_mask(mask), identity{}, options);
}

/// The same without a mask: every query sees every key.
template <class Q, class K, class V>
auto scaled_dot_product_attention(const Eigen::DenseBase<Q>& query, const Eigen::DenseBase<K>& key,
                                  const Eigen::DenseBase<V>& value,
                                  const attn::options& options = {}) {
  return detail::attention(query, key, value, none{}, identity{}, options);
}

/// The same into memory of the caller's: a plain matrix, which is resized, or a Map, Block or Ref
/// of Lq x dv elements of the query's type, in any storage order and with any strides. With a
/// workspace in the options, and matrices or views of floats or doubles, a call after the first of
/// its kind allocates nothing on the calling thread. Throws std::invalid_argument as well where out
/// has another size or type, or shares memory with query, key or value; it is then untouched.
template <class Q, class K, class V, class M, class F>
  requires(!std::is_same_v<F, options>)
void scaled_dot_product_attention_into(const output& out, const Eigen::DenseBase<Q>& query,
                                       const Eigen::DenseBase<K>& key,
                                       const Eigen::DenseBase<V>& value, M&& mask,
                                       const F& score_mod, const attn::options& options = {}) {
  detail::attention_into(out, query, key, value, as_mask(mask), score_mod, options);
}

/// The same without a score change.
template <class Q, class K, class V, class M>
  requires(!std::is_same_v<std::remove_cvref_t<M>, options>)
void scaled_dot_product_attention_into(const output& out, const Eigen::DenseBase<Q>& query,
                                       const Eigen::DenseBase<K>& key,
                                       const Eigen::DenseBase<V>& value, M&& mask,
                                       const attn::options& options = {}) {
  detail::attention_into(out, query, key, value, as_mask(mask), identity{}, options);
}

/// The same without a mask.
template <class Q, class K, class V>
void scaled_dot_product_attention_into(const output& out, const Eigen::DenseBase<Q>& query,
                                       const Eigen::DenseBase<K>& key,
                                       const Eigen::DenseBase<V>& value,
                                       const attn::options& options = {}) {
  detail::attention_into(out, query, key, value, none{}, identity{}, options);
}

}  // namespace attn::inline ATTN_ABI
