// Multi-head attention, the layer: learnable projections of query, key and value, attention head by
// head, and a projection of the heads joined (Vaswani et al. 2017, §3.2.2).
#pragma once

#include <Eigen/Core>
#include <array>
#include <attn/heads_attention.hpp>
#include <attn/multi_head_attention_gradient.hpp>
#include <attn/projection.hpp>
#include <attn/varlen.hpp>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace attn::inline ATTN_ABI {

/// The shape of a layer. `width` must be given: `{.heads = 8, .width = 512}`.
struct multi_head_attention_options {
  /// Whether the four projections add a bias.
  bool bias = true;
  /// Columns of one head of query and key; by default width / heads, which must divide.
  std::optional<index> head_width = std::nullopt;
  index heads = 1;  ///< of query, key and value
  /// Columns of the key that is put in; by default `width`.
  std::optional<index> key_width = std::nullopt;
  /// Where the first weights come from: the same seed gives the same layer everywhere.
  std::uint64_t seed = 0;
  /// Columns of one head of value; by default as of query and key.
  std::optional<index> value_head_width = std::nullopt;
  /// Columns of the value that is put in; by default `width`.
  std::optional<index> value_width = std::nullopt;
  /// Columns of the query that is put in, and of the result.
  index width = 0;
};

/// What `multi_head_attention::with_weights` gives: the result, and the weights of each head, a row
/// a query and a column a key.
template <class Out, class Weights>
struct output_with_weights {
  Out out;                       ///< a row a query
  std::vector<Weights> weights;  ///< a matrix a head, queries x keys
};

/// softmax(q_h k_hᵀ / √d) v_h for each head h, joined and projected: with q = query W_q + b_q and
/// so on, head h is columns [h d, (h + 1) d) of q, k and v.
///
/// Parameters by name; a weight has a row for each input and a column for each output. With
/// d = head_width and dv = value_head_width:
///
///     query.weight   width x heads·d          query.bias   1 x heads·d
///     key.weight     key_width x heads·d      key.bias     1 x heads·d
///     value.weight   value_width x heads·dv   value.bias   1 x heads·dv
///     output.weight  heads·dv x width         output.bias  1 x width
///
/// First values: weights as `xavier_uniform` draws them, in the order above, all heads of a
/// projection as one matrix; biases 0. For keys and values as wide as the queries this is not what
/// PyTorch draws: there, query, key and value are one (3 width, width) matrix, so with bound
/// √(6 / (4 width)), and the output has √(1 / width), where each has √(6 / (2 width)) here.
///
/// To train it, `auto [out, tape] = layer.forward(x, mask)` and `layer.backward(tape, out_gradient,
/// mask)`: see `trainable` in multi_head_attention_gradient.hpp, where they stand.
template <class Scalar>
class multi_head_attention : public detail::trainable<multi_head_attention<Scalar>, Scalar> {
 public:
  /// Its parameters and results: dynamic, column-major.
  using matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>;

  /// Throws std::invalid_argument for widths or heads below 1, and heads that do not divide.
  explicit multi_head_attention(const multi_head_attention_options& shape)
      : multi_head_attention(checked(shape), std::mt19937_64(shape.seed)) {}

  /// How many heads it has.
  [[nodiscard]] index heads() const { return heads_; }
  /// Features of a query.
  [[nodiscard]] index width() const { return query_.weight.rows(); }
  /// Features of a key.
  [[nodiscard]] index key_width() const { return key_.weight.rows(); }
  /// Features of a value.
  [[nodiscard]] index value_width() const { return value_.weight.rows(); }
  /// Features of a query and key of one head.
  [[nodiscard]] index head_width() const { return query_.weight.cols() / heads_; }
  /// Features of a value of one head.
  [[nodiscard]] index value_head_width() const { return value_.weight.cols() / heads_; }

  /// Self-attention: every row of `x` (L x width) attends to every row. Returns L x width.
  template <class X>
  auto operator()(const Eigen::DenseBase<X>& x) const {
    return (*this)(x, x, x);
  }

  /// query: Lq x width, key: Lk x key_width, value: Lk x value_width, all of the layer's scalar
  /// type. Returns Lq x width, in the query's storage order. Mask, score change and options are
  /// those of `scaled_dot_product_attention` and hold for every head; `position::head` tells them
  /// apart. Outputs asked for by the options would have to hold all heads and are refused: see
  /// `with_weights`. Throws std::invalid_argument where shapes differ.
  template <class Q, class K, class V>
  auto operator()(const Eigen::DenseBase<Q>& query, const Eigen::DenseBase<K>& key,
                  const Eigen::DenseBase<V>& value, const attn::options& options = {}) const {
    return (*this)(query, key, value, none{}, identity{}, options);
  }

  /// @overload
  template <class Q, class K, class V, class M>
    requires(!std::is_same_v<M, options>)
  auto operator()(const Eigen::DenseBase<Q>& query, const Eigen::DenseBase<K>& key,
                  const Eigen::DenseBase<V>& value, const M& mask,
                  const attn::options& options = {}) const {
    return (*this)(query, key, value, mask, identity{}, options);
  }

  /// @overload
  template <class Q, class K, class V, class M, class F>
    requires(!std::is_same_v<F, options>)
  auto operator()(const Eigen::DenseBase<Q>& query, const Eigen::DenseBase<K>& key,
                  const Eigen::DenseBase<V>& value, const M& mask, const F& score_mod,
                  const attn::options& options = {}) const {
    refuse_outputs(options);
    return attend(query, key, value, [&](const output& out, const auto&... qkv) {
      scaled_dot_product_attention_into(out, qkv..., mask, score_mod, options);
    });
  }

  /// Self-attention of packed sequences (see `packed_attention`): `x` holds one after the other, a
  /// row a token, and starts says where each begins. Every sequence as if it were alone.
  template <class X>
  auto packed(const Eigen::DenseBase<X>& x, const packed_starts& starts,
              const attn::options& options = {}) const {
    return packed(x, starts, none{}, identity{}, options);
  }

  /// @overload
  template <class X, class M>
    requires(!std::is_same_v<M, options>)
  auto packed(const Eigen::DenseBase<X>& x, const packed_starts& starts, const M& mask,
              const attn::options& options = {}) const {
    return packed(x, starts, mask, identity{}, options);
  }

  /// @overload
  template <class X, class M, class F>
    requires(!std::is_same_v<F, options>)
  auto packed(const Eigen::DenseBase<X>& x, const packed_starts& starts, const M& mask,
              const F& score_mod, const attn::options& options = {}) const {
    refuse_outputs(options);
    return attend(x, x, x, [&](const output& out, const auto&... qkv) {
      packed_attention_into(out, qkv..., starts, mask, score_mod, options);
    });
  }

  /// As the call, with each head's weights: `auto [out, weights] = layer.with_weights(x, x, x)`.
  template <class Q, class K, class V, class M = none, class F = identity>
  auto with_weights(const Eigen::DenseBase<Q>& query, const Eigen::DenseBase<K>& key,
                    const Eigen::DenseBase<V>& value, const M& mask = {}, const F& score_mod = {},
                    const attn::options& options = {}) const {
    using weights = Eigen::Matrix<accumulator_t<Scalar>, Eigen::Dynamic, Eigen::Dynamic>;
    refuse_outputs(options);
    heads_array<accumulator_t<Scalar>> all;
    attn::options kept = options;
    kept.weights = all;
    auto out = attend(query, key, value, [&](const output& joined, const auto&... qkv) {
      scaled_dot_product_attention_into(joined, qkv..., mask, score_mod, kept);
    });
    std::vector<weights> each;
    for (index h = 0; h < heads_; ++h) each.emplace_back(all.head(0, h));
    return output_with_weights<decltype(out), weights>{std::move(out), std::move(each)};
  }

  /// All parameters in place: `for (auto& [name, values] : layer.parameters()) values -= …`.
  [[nodiscard]] auto parameters() { return list<Eigen::Map<matrix>>(*this); }
  /// @overload
  [[nodiscard]] auto parameters() const { return list<Eigen::Map<const matrix>>(*this); }

  /// One parameter in place. Throws std::invalid_argument, listing the names, if there is none
  /// such.
  [[nodiscard]] auto parameter(std::string_view name) {
    return detail::find_parameter(parameters(), name);
  }
  /// @overload
  [[nodiscard]] auto parameter(std::string_view name) const {
    return detail::find_parameter(parameters(), name);
  }

  /// Takes all parameters, by their own names and in their own shapes. This and the functions below
  /// throw std::invalid_argument for a tensor that is missing, unknown or of another shape, and
  /// have then changed nothing.
  void load(const tensors<Scalar>& from) { detail::load(parameters(), from, std::identity{}); }

  /// Takes what PyTorch's nn.MultiheadAttention holds, under the names of its state_dict:
  ///
  ///     in_proj_weight   (3 width, width)      query's rows, then key's, then value's
  ///     in_proj_bias     (3 width)             likewise
  ///     out_proj.weight  (width, width)
  ///     out_proj.bias    (width)
  ///
  /// and where key_width or value_width is not width, instead of in_proj_weight
  ///
  ///     q_proj_weight    (width, width)
  ///     k_proj_weight    (width, key_width)
  ///     v_proj_weight    (width, value_width)
  ///
  /// Its weights have a row for each output, y = x Wᵀ + b; head h is rows [h d, (h + 1) d). Mind
  /// its boolean masks: true hides there, and lets through here.
  void load_pytorch(const tensors<Scalar>& from);

  /// Takes what Keras' MultiHeadAttention holds, under the last two parts of its weights' paths.
  /// A kernel of three axes comes as the matrix with two of them joined, numbers in NumPy's order;
  /// a bias of two axes as one vector, head after head. With d and dv as above:
  ///
  ///     query/kernel             (width, heads, d)         as width x heads·d
  ///     key/kernel               (key_width, heads, d)     as key_width x heads·d
  ///     value/kernel             (value_width, heads, dv)  as value_width x heads·dv
  ///     attention_output/kernel  (heads, dv, width)        as heads·dv x width
  ///     query/bias, key/bias     (heads, d)                as 1 x heads·d
  ///     value/bias               (heads, dv)               as 1 x heads·dv
  ///     attention_output/bias    (width)
  ///
  /// Mind the order of its arguments: Keras calls with (query, value, key).
  void load_keras(const tensors<Scalar>& from) {
    detail::load(parameters(), from, [](const std::string& name) {
      const std::size_t dot = name.find('.');
      const std::string part = name.substr(0, dot);
      return (part == "output" ? "attention_output" : part) +
             (name.substr(dot) == ".weight" ? "/kernel" : "/bias");
    });
  }

 private:
  using projection = detail::projection<Scalar>;
  friend detail::trainable<multi_head_attention, Scalar>;

  static multi_head_attention_options checked(multi_head_attention_options shape) {
    detail::require_at_least_1("width", shape.width);
    detail::require_at_least_1("heads", shape.heads);
    detail::require(shape.head_width || shape.width % shape.heads == 0, "heads is ", shape.heads,
                    ", it should divide width, which is ", shape.width,
                    ", or head_width should be given");
    shape.head_width = shape.head_width.value_or(shape.width / shape.heads);
    shape.value_head_width = shape.value_head_width.value_or(*shape.head_width);
    shape.key_width = shape.key_width.value_or(shape.width);
    shape.value_width = shape.value_width.value_or(shape.width);
    detail::require_at_least_1("head_width", *shape.head_width);
    detail::require_at_least_1("value_head_width", *shape.value_head_width);
    detail::require_at_least_1("key_width", *shape.key_width);
    detail::require_at_least_1("value_width", *shape.value_width);
    return shape;
  }

  /// Members are drawn in the order of their declaration.
  multi_head_attention(const multi_head_attention_options& shape, std::mt19937_64 generator)
      : heads_(shape.heads),
        query_(shape.width, shape.heads * *shape.head_width, shape.bias, generator),
        key_(*shape.key_width, shape.heads * *shape.head_width, shape.bias, generator),
        value_(*shape.value_width, shape.heads * *shape.value_head_width, shape.bias, generator),
        output_(shape.heads * *shape.value_head_width, shape.width, shape.bias, generator) {}

  void refuse_outputs(const attn::options& options) const {
    detail::require(!options.weights,
                    "options.weights takes the weights of one head, the layer has ", heads_,
                    ": call with_weights, which returns those of each");
    detail::require(!options.log_sum_exp,
                    "options.log_sum_exp takes the numbers of one head, the layer has ", heads_,
                    ": it should not be given");
  }

  /// `whose`: before the names, in messages.
  template <class Q, class K, class V>
  void check_inputs(const Q& query, const K& key, const V& value,
                    std::string_view whose = "") const {
    detail::require_scalar<Scalar, Q, K, V>();
    detail::require(query.cols() == width(), whose, "query has ", query.cols(),
                    " columns, the layer has width ", width());
    detail::require(key.cols() == key_width(), whose, "key has ", key.cols(),
                    " columns, the layer has key_width ", key_width());
    detail::require(value.cols() == value_width(), whose, "value has ", value.cols(),
                    " columns, the layer has value_width ", value_width());
    detail::require(value.rows() == key.rows(), whose, "value has ", value.rows(),
                    " rows, key has ", key.rows());
  }

  struct keep_nothing {
    template <class... Matrices>
    void operator()(const Matrices&... /*unused*/) const {}
  };

  /// `attention(out, query, key, value)`: all heads, side by side in each. `keep` may take them
  /// over afterwards: `keep(query, key, value, out)`.
  template <class Q, class K, class V, class Attention, class Keep = keep_nothing>
  auto attend(const Eigen::DenseBase<Q>& query, const Eigen::DenseBase<K>& key,
              const Eigen::DenseBase<V>& value, const Attention& attention,
              const Keep& keep = {}) const {
    check_inputs(query, key, value);
    auto q = query_(query);
    auto k = key_(key);
    auto v = value_(value);
    detail::rows_by_cols<accumulator_t<Scalar>, Q, matrix> joined(q.rows(), v.cols());
    attention(split_heads(joined, heads_), split_heads(q, heads_), split_heads(k, heads_),
              split_heads(v, heads_));
    auto out = detail::rounded<Scalar>(output_(joined));
    keep(std::move(q), std::move(k), std::move(v), std::move(joined));
    return out;
  }

  template <class Values, class Self>
  static std::vector<named_parameter<Values>> list(Self& self) {
    std::vector<named_parameter<Values>> all;
    projection::add_parameters(all, "query", self.query_);
    projection::add_parameters(all, "key", self.key_);
    projection::add_parameters(all, "value", self.value_);
    projection::add_parameters(all, "output", self.output_);
    return all;
  }

  index heads_;
  projection query_;
  projection key_;
  projection value_;
  projection output_;
};

template <class Scalar>
void multi_head_attention<Scalar>::load_pytorch(const tensors<Scalar>& from) {
  detail::require(query_.weight.cols() == width() && value_.weight.cols() == width(),
                  "head_width is ", head_width(), " and value_head_width ", value_head_width(),
                  ", in PyTorch both are width / heads");
  const bool stacked = key_width() == width() && value_width() == width();
  const bool biased = output_.bias.size() > 0;
  std::vector<detail::tensor_shape> expected;
  if (stacked) {
    expected.push_back({"in_proj_weight", 3 * width(), width()});
  } else {
    expected.push_back({"q_proj_weight", width(), width()});
    expected.push_back({"k_proj_weight", width(), key_width()});
    expected.push_back({"v_proj_weight", width(), value_width()});
  }
  if (biased) expected.push_back({"in_proj_bias", 1, 3 * width()});
  expected.push_back({"out_proj.weight", width(), width()});
  if (biased) expected.push_back({"out_proj.bias", 1, width()});
  detail::check_tensors(from, expected);

  const std::array inputs{&query_, &key_, &value_};
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const index first = static_cast<index>(i) * width();
    const detail::tensor_shape& of = expected[stacked ? 0 : i];
    const auto weights = from.at(of.name).reshaped(of.rows, of.cols);  // a row may stand
    inputs[i]->weight = weights.middleRows(stacked ? first : 0, width()).transpose();
    if (biased) inputs[i]->bias = from.at("in_proj_bias").reshaped().segment(first, width());
  }
  output_.weight = from.at("out_proj.weight").transpose();
  if (biased) output_.bias = from.at("out_proj.bias").reshaped();
}

}  // namespace attn::inline ATTN_ABI
