// A call on many heads of many sequences, wherever their keys lie: what is checked of it, and how
// each sequence of it is handed to the kernel.
#pragma once

#include <attn/attention.hpp>
#include <attn/call_outputs.hpp>
#include <attn/heads.hpp>
#include <attn/stored_keys.hpp>

namespace attn::inline ATTN_ABI::detail {

/// Without memory there are no strides: nothing may be added to a null pointer.
template <class T>
kernel::strided<T> strided_view(const heads_view<T>& view) {
  if (view.data() == nullptr) return {};
  return {view.data(), view.strides().row, view.strides().col};
}

/// Where the tokens of sequence b lie in a view, `before` rows into the sequence of that number, or
/// into the only one. An empty view stays where it is: its strides may be anything.
template <class T>
kernel::strided<T> tokens_of(const heads_view<T>& view, index b, index before) {
  if (view.shape().size() == 0) return strided_view(view);
  const heads_strides& by = view.strides();
  return strided_view(view).moved((view.batch() == 1 ? 0 : b * by.batch) + before * by.row);
}

/// Queries and results of a call, and `Stored`, which gives the keys and values of each sequence:
/// batch(), heads(), key_width(), value_width(), before(b), the rows before its first, and
/// sequence(b) -> stored_keys.
template <class T, class Stored>
struct heads_call {
  using S = accumulator_t<T>;
  heads_view<const T> query;
  const Stored& stored;
  const attn::options& options;
  integers starts = {};  // of packed sequences among the rows of query; else it has a batch of them
  heads_view<T> out = {};
  heads_view<S> log_sum_exp = {};
  heads_view<S> weights = {};

  [[nodiscard]] index batch() const { return starts ? starts.size() - 1 : query.batch(); }
  [[nodiscard]] index queries(index b) const {
    if (starts) return starts[b + 1] - starts[b];
    return options.query_lengths ? options.query_lengths[b] : query.length();
  }
  /// @{
  /// Rows before the tokens of sequence b, of query and of key: padding, or packed sequences.
  [[nodiscard]] index queries_before(index b) const {
    return starts ? starts[b] : rows_before(query.length(), queries(b), options.padding);
  }
  [[nodiscard]] index keys_before(index b) const { return stored.before(b); }
  /// @}
  [[nodiscard]] call_shape shape(index b) const {
    return make_call_shape(queries(b), stored.sequence(b).length, options.alignment, false,
                           query.heads(), batch());
  }

  /// As the kernel sees sequence b.
  sequence_call<S> operator()(index b) const {
    const stored_keys<T> keys = stored.sequence(b);
    sequence_call<S> s;
    kernel::problem<S>& p = s.first;
    p.query = of_query(query, b);
    p.out = of_query(out, b);
    p.log_sum_exp = of_query(log_sum_exp, b);
    p.weights = of_query(weights, b).moved(keys_before(b) * weights.strides().col);
    p.memory = {{keys.key, keys.key_row, keys.key_col},
                {keys.value, keys.value_row, keys.value_col},
                keys.key_page,
                keys.value_page,
                keys.table,
                keys.piece};
    p.first_key = keys.first;
    p.depth = query.width();
    p.value_depth = stored.value_width();
    p.scale = static_cast<S>(scale_factor<S>(options, query.width()));
    p.shape = shape(b);
    p.batch = static_cast<std::int32_t>(b);
    s.heads = query.heads();
    s.key_heads = stored.heads();
    s.query_head = query.strides().head;
    s.key_head = keys.key_head;
    s.value_head = keys.value_head;
    s.out_head = out.strides().head;
    s.log_sum_exp_head = log_sum_exp.strides().head;
    s.weights_head = weights.strides().head;
    s.sinks = &options.sink;
    s.capacity = keys.capacity;
    p.dropout = dropping(options.dropout);
    if (s.heads > 0) p.sink = static_cast<S>(options.sink.of(0));
    return s;
  }

  /// @{
  /// Where the tokens of sequence b start, for head h of the query or the key head that serves it.
  template <class E>
  [[nodiscard]] kernel::strided<E> of_query(const heads_view<E>& view, index b, index h = 0) const {
    return tokens_of(view, b, queries_before(b)).moved(h * view.strides().head);
  }
  template <class E>
  [[nodiscard]] kernel::strided<E> of_key(const heads_view<E>& view, index b, index h) const {
    const index group = query.heads() / stored.heads();
    return tokens_of(view, b, keys_before(b)).moved(h / group * view.strides().head);
  }
  /// @}
};

inline void check_lengths(std::string_view name, const integers& lengths, index batch, index most) {
  if (!lengths) return;
  require(lengths.size() == batch, name, " has ", lengths.size(), " lengths, the call has ", batch,
          " sequences");
  for (index b = 0; b < batch; ++b) {
    require(lengths[b] >= 0 && lengths[b] <= most, name, " has length ", lengths[b],
            " for sequence ", b, ", it should be between 0 and ", most);
  }
}

/// One sequence of a view of keys and one of values: `length` tokens of it, from `first` on.
template <class T>
stored_keys<T> keys_in(const heads_view<const T>& key, const heads_view<const T>& value, index b,
                       index first, index length) {
  const heads_strides& k = key.strides();
  const heads_strides& v = value.strides();
  return {.key = tokens_of(key, b, first).data,
          .value = tokens_of(value, b, first).data,
          .key_head = k.head,
          .key_row = k.row,
          .key_col = k.col,
          .value_head = v.head,
          .value_row = v.row,
          .value_col = v.col,
          .length = length};
}

template <class T>
void check_keys_and_values(const heads_view<const T>& key, const heads_view<const T>& value) {
  require(value.heads() == key.heads(), "value has ", value.heads(), " heads, key has ",
          key.heads());
  require(value.length() == key.length(), "value has ", value.length(), " tokens, key has ",
          key.length());
}

/// Heads, or matrices in place of some of them.
template <class Q, class K, class V>
concept HeadsAmong = HeadsOrMatrix<Q> && HeadsOrMatrix<K> && HeadsOrMatrix<V> &&
                     (HeadsLike<Q> || HeadsLike<K> || HeadsLike<V>);

template <class Q>
using heads_scalar = typename decltype(as_heads(std::declval<const Q&>()))::value_type;

/// What is wrong with scalar types that differ; whether nothing is.
template <class Q, class... KV>
constexpr bool require_one_scalar() {
  constexpr bool one = (std::is_same_v<heads_scalar<Q>, heads_scalar<KV>> && ...);
  static_assert(one, "attn: query, key and value should have one scalar type: cast the others.");
  return one;
}

/// What is wrong with the types of a call on heads, be they of query, key and value or of a query
/// alone; whether nothing is.
template <class Q, class... KV>
constexpr bool require_heads() {
  constexpr bool all = HeadsLike<Q> && (HeadsLike<KV> && ...);
  static_assert(
      all,
      "attn: this call is for views or arrays of heads: attn::split_heads(matrix, heads), "
      "or attn::one_head(matrix), in place of each matrix, which is to have a name.");
  if constexpr (all) {
    return require_one_scalar<Q, KV...>();
  } else {
    return false;
  }
}

/// The order in which a view's memory is best walked, for a result like it.
template <class T>
heads_order order_of(const heads_view<T>& view) {
  return view.heads() > 1 && view.strides().head < view.strides().row ? heads_order::blhd
                                                                      : heads_order::bhld;
}

/// What query and keys must agree in. `keys` names them in messages.
template <class T, class Stored>
void check_heads(const heads_call<T, Stored>& call, std::string_view keys) {
  const heads_view<const T>& query = call.query;
  const index heads = call.stored.heads();
  require(call.stored.batch() == call.batch(), keys, " has ", call.stored.batch(),
          " sequences, query has ", call.batch());
  require(heads > 0 ? query.heads() % heads == 0 : query.heads() == 0, keys, " has ", heads,
          " heads, they should divide the ", query.heads(), " of query");
  require(call.stored.key_width() == query.width(), keys, " has width ", call.stored.key_width(),
          ", query has ", query.width());
}

/// Everything else that can be wrong with a call on heads, but its outputs. `most_keys`: of any
/// sequence, what a mask in memory must have.
template <class T, class Stored, class M, class F>
void check_rules(const heads_call<T, Stored>& call, index most_keys, const M& mask,
                 const F& score_mod) {
  using S = accumulator_t<T>;
  check_sinks<S>(call.options.sink, call.query.heads());
  if (call.options.scale) checked_scale<S>(*call.options.scale);
  check_dropout(call.options.dropout);
  if (call.options.padding == padding::left) {
    require(call.options.query_lengths || call.options.key_lengths,
            "options.padding is left, and neither options.query_lengths nor key_lengths tell what "
            "is no padding");
  }
  constexpr bool positional = positional_mask<M> || positional_score_mod<F, S>;
  const bool padded_itself =
      call.options.key_lengths && !call.options.query_lengths && call.query.length() == most_keys;
  for (index b = 0; b < call.batch(); ++b) {
    const index keys = call.stored.sequence(b).length;
    const bool fits = !positional || call.options.alignment.given() || call.queries(b) == keys;
    require(fits || !padded_itself, "sequence ", b, " has ", call.queries(b), " queries and ", keys,
            " keys: give options.query_lengths beside key_lengths where a padded batch attends to "
            "itself, else options.alignment, for the mask or score change depends on positions");
    require(fits, "sequence ", b, " has ", call.queries(b), " queries and ", keys,
            " keys: the mask, be it a ring's window, or score change depends on positions, so "
            "options.alignment must be given: attn::bottom_right (the last query at the last key, "
            "as with a cache), attn::top_left or attn::offset(n)");
    check(score_mod, call.shape(b));
    call_shape shape = call.shape(b);  // and of masks in memory, which are as long as the longest
    if (!call.starts) shape.queries = static_cast<std::int32_t>(call.query.length());
    shape.keys = static_cast<std::int32_t>(most_keys);
    check(mask, shape);
  }
  if (call.options.padding == padding::left) {
    const bool of_queries = bool{call.options.query_lengths};
    const bool of_keys = bool{call.options.key_lengths};
    each_in_memory(mask, [&](const auto& part) {
      require(
          !of_keys && (!of_queries || part.shape().length == 1), "the mask in memory, of shape ",
          part.shape(), ", has a ", of_keys ? "column a key" : "row a query",
          ", and options.padding is left: give a function, as a mask or, for what is added, as "
          "a score change; queries and keys are counted from the first token of their "
          "sequence. Or give neither lengths nor padding, and a mask that hides what is padding");
    });
  }
}

/// Checks what a call on heads writes to; `keys`: columns of the weights.
template <class T, class Stored, class M, class F>
void check_outputs(call_outputs& outputs, const heads_call<T, Stored>& call, const output& out,
                   index keys, const M& mask, const F& score_mod) {
  using S = accumulator_t<T>;
  heads_shape shape = call.query.shape();
  shape.width = call.stored.value_width();
  outputs.check<T>("out", out, shape);
  shape.width = 1;
  outputs.check<S>("options.log_sum_exp", call.options.log_sum_exp, shape);
  shape.width = keys;
  outputs.check<S>("options.weights", call.options.weights, shape);
  outputs.require_apart_from_rules(mask, score_mod, call.options.sink);
}

/// Opens them, once all is checked.
template <class T, class Stored>
void open_outputs(heads_call<T, Stored>& call, const output& out, index keys) {
  using S = accumulator_t<T>;
  heads_shape shape = call.query.shape();
  shape.width = call.stored.value_width();
  call.out = out.open<T>(shape);
  shape.width = 1;
  call.log_sum_exp = call.options.log_sum_exp.template open<S>(shape);
  shape.width = keys;
  call.weights = call.options.weights.template open<S>(shape);
}

/// 0, and -inf for the log-sum-exp, in rows and columns that are not of the tokens of a sequence.
template <class T, class Stored>
void fill_padding(const heads_call<T, Stored>& call) {
  using S = accumulator_t<T>;
  const bool all_there = !call.options.query_lengths && call.weights.shape().size() == 0;
  if (call.starts || all_there) return;
  const auto fill_rows = [](auto rows, index first, index count, auto value) {
    rows.topRows(first).setConstant(value);
    rows.bottomRows(rows.rows() - first - count).setConstant(value);
  };
  for (index b = 0; b < call.batch(); ++b) {
    const index first = call.queries_before(b), count = call.queries(b);
    const index first_key = call.keys_before(b), keys = call.stored.sequence(b).length;
    for (index h = 0; h < call.query.heads(); ++h) {
      if (call.out.shape().size() > 0) fill_rows(call.out.head(b, h), first, count, T(0));
      if (call.log_sum_exp.shape().size() > 0) {
        const S lowest = -std::numeric_limits<S>::infinity();
        fill_rows(call.log_sum_exp.head(b, h), first, count, lowest);
      }
      if (call.weights.shape().size() == 0) continue;
      auto weights = call.weights.head(b, h);
      fill_rows(weights, first, count, S(0));
      fill_rows(weights.transpose(), first_key, keys, S(0));
    }
  }
}

/// Bytes for each query of a mask that all heads read, where it would leave little of a second
/// cache; else 0.
template <class M>
index bytes_of_shared_rows(const M& mask) {
  index bytes = 0, of_row = 0;
  each_in_memory(mask, [&](const auto& part) {
    const heads_shape& n = part.shape();
    if (n.heads > 1 || n.length == 1) return;
    of_row += n.width * index{sizeof *part.data(0, 0)};
    bytes += n.length * n.width * index{sizeof *part.data(0, 0)};
  });
  return bytes >= 1 << 19 ? of_row : 0;
}

/// Of a mask that all heads read: so many queries that their rows are as large as what a head has
/// of keys and values, where these fit the second cache; both then come seldom from further away.
/// Else a block of them, so that at least the mask does. Measured.
template <class S>
index queries_a_turn(const sequence_call<S>& s, index mask_row) {
  constexpr index cache = 1 << 20;
  const kernel::problem<S>& p = s.first;
  const index bytes = p.shape.keys * (p.depth + p.value_depth) * index{sizeof(S)};
  return bytes > cache ? 1 : 1 + bytes / (s.group() * mask_row);
}

/// Runs a checked call whose outputs are open, by the kernel.
template <class T, class Stored, class M, class F>
void attend_heads(const heads_call<T, Stored>& call, const M& mask, const F& score_mod) {
  using S = accumulator_t<T>;
  const simd set = instruction_set();
  const auto change = for_kernel(score_mod);
  const index mask_row = bytes_of_shared_rows(mask);
  const auto sequence = [&](index b) {
    sequence_call<S> s = call(b);
    if (mask_row > 0 && s.heads > 0) s.queries_a_turn = queries_a_turn(s, mask_row);
    return s;
  };
  constexpr std::size_t stack_bytes = 32768;
  run_kernel<stack_bytes>(set, call.batch(), sequence, kernel::make_rules<S>(set, mask, change),
                          call.options);
  fill_padding(call);
}

}  // namespace attn::inline ATTN_ABI::detail
