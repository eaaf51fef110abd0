// Additive attention, the comparison that dot products won against: each pair of a query and a key
// is scored by a small network with its own tanh, where a dot product is one matrix product.
#pragma once

#include <Eigen/Core>
#include <attn/attention.hpp>
#include <attn/options.hpp>
#include <attn/projection.hpp>
#include <attn/stages.hpp>
#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>
#include <vector>

namespace attn::inline ATTN_ABI {

/// The shape of a layer. `width` must be given: `{.hidden_width = 32, .width = 64}`.
struct additive_attention_options {
  /// Columns that query and key are projected to before the tanh; by default `width`.
  std::optional<index> hidden_width = std::nullopt;
  /// Columns of the key; by default `width`.
  std::optional<index> key_width = std::nullopt;
  /// Where the first weights come from: the same seed gives the same layer everywhere.
  std::uint64_t seed = 0;
  /// Columns of the query.
  index width = 0;
};

/// softmax(s) value with s_ij = w · tanh(query_i W_q + key_j W_k) (Bahdanau, Cho and Bengio: Neural
/// Machine Translation by Jointly Learning to Align and Translate, 2015, arXiv 1409.0473, §A.1.2).
///
/// Parameters by name, first values as `xavier_uniform` draws them, in this order:
///
///     query.weight  width x hidden_width
///     key.weight    key_width x hidden_width
///     score.weight  hidden_width x 1
template <class Scalar>
class additive_attention {
 public:
  /// Its parameters and results: dynamic, column-major.
  using matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>;

  /// Throws std::invalid_argument for widths below 1.
  explicit additive_attention(const additive_attention_options& shape)
      : additive_attention(checked(shape), std::mt19937_64(shape.seed)) {}

  /// Features of a query.
  [[nodiscard]] index width() const { return query_.weight.rows(); }
  /// Features of a key.
  [[nodiscard]] index key_width() const { return key_.weight.rows(); }
  /// Features of the hidden layer.
  [[nodiscard]] index hidden_width() const { return score_.weight.rows(); }

  /// query: Lq x width, key: Lk x key_width, value: Lk x any, all of the layer's scalar type.
  /// Returns Lq x columns of value. Mask and options are those of `scaled_dot_product_attention`,
  /// but that the scale is 1 by default. Throws std::invalid_argument as that does.
  template <class Q, class K, class V>
  auto operator()(const Eigen::DenseBase<Q>& query, const Eigen::DenseBase<K>& key,
                  const Eigen::DenseBase<V>& value, const attn::options& options = {}) const {
    return (*this)(query, key, value, none{}, options);
  }

  /// @overload
  template <class Q, class K, class V, class M>
    requires(!std::is_same_v<M, options>)
  auto operator()(const Eigen::DenseBase<Q>& query, const Eigen::DenseBase<K>& key,
                  const Eigen::DenseBase<V>& value, const M& mask,
                  const attn::options& options = {}) const {
    using S = accumulator_t<Scalar>;
    detail::require_scalar<Scalar, Q, K, V>();
    const auto& checked_mask = as_mask(mask);
    const call_shape shape =
        detail::checked_shape<S>(query, key, value, checked_mask, identity{}, options, {});
    const auto& q = detail::evaluated(query.derived());
    const auto& k = detail::evaluated(key.derived());
    const auto& v = detail::evaluated(value.derived());
    detail::require_apart<S, Scalar>({}, options, q, k, v, checked_mask, identity{});
    const double sink = options.sink.of(0);
    const auto s = apply_mask(attn::scale(score(q, k, options.executor), options.scale.value_or(1)),
                              checked_mask, options.alignment);
    auto p = softmax(s, sink);
    if (options.weights) options.weights.template open<S>(p.rows(), p.cols()) = p;
    if (options.log_sum_exp) {
      options.log_sum_exp.template open<S>(s.rows(), 1) = log_sum_exp(s, sink);
    }
    const detail::block_place place{shape};
    if (options.dropout.probability > 0) detail::drop(p, options.dropout, place);
    auto out = detail::weighted_sum(p, v, checked_mask, place, detail::zeros_with(sink));
    return detail::rounded<Scalar>(std::move(out));
  }

  /// The scores s alone, Lq x Lk of accumulator_t<Scalar>: a stage, like `attn::score`. `executor`
  /// runs a task for each query. Throws std::invalid_argument where widths differ.
  template <class Q, class K>
  auto score(const Eigen::DenseBase<Q>& query, const Eigen::DenseBase<K>& key,
             const attn::executor& executor = {}) const {
    using S = accumulator_t<Scalar>;
    detail::require_scalar<Scalar, Q, K>();
    detail::require(query.cols() == width(), "query has ", query.cols(),
                    " columns, the layer has width ", width());
    detail::require(key.cols() == key_width(), "key has ", key.cols(),
                    " columns, the layer has key_width ", key_width());
    // A column a token, so that the hidden features of one lie side by side.
    using columns = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic>;
    const columns q = query_(query).transpose();
    const columns k = key_(key).transpose();
    const Eigen::Matrix<S, Eigen::Dynamic, 1> w = detail::computable(score_.weight);
    detail::rows_by_rows<S, Q, K> s(query.rows(), key.rows());
    executor(s.rows(), task([&](index i) {
               for (index j = 0; j < s.cols(); ++j) {
                 s.coeffRef(i, j) = w.dot((q.col(i) + k.col(j)).array().tanh().matrix());
               }
             }));
    return s;
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

  /// Takes all parameters, by name. Throws std::invalid_argument for one that is missing, unknown
  /// or of another shape, and has then changed nothing.
  void load(const tensors<Scalar>& from) { detail::load(parameters(), from, std::identity{}); }

 private:
  using projection = detail::projection<Scalar>;

  static additive_attention_options checked(additive_attention_options shape) {
    shape.hidden_width = shape.hidden_width.value_or(shape.width);
    shape.key_width = shape.key_width.value_or(shape.width);
    detail::require_at_least_1("width", shape.width);
    detail::require_at_least_1("hidden_width", *shape.hidden_width);
    detail::require_at_least_1("key_width", *shape.key_width);
    return shape;
  }

  additive_attention(const additive_attention_options& shape, std::mt19937_64 generator)
      : query_(shape.width, *shape.hidden_width, false, generator),
        key_(*shape.key_width, *shape.hidden_width, false, generator),
        score_(*shape.hidden_width, 1, false, generator) {}

  template <class Values, class Self>
  static std::vector<named_parameter<Values>> list(Self& self) {
    const auto map = [](auto& weight) {
      return Values(weight.data(), weight.rows(), weight.cols());
    };
    return {{"query.weight", map(self.query_.weight)},
            {"key.weight", map(self.key_.weight)},
            {"score.weight", map(self.score_.weight)}};
  }

  projection query_;
  projection key_;
  projection score_;
};

}  // namespace attn::inline ATTN_ABI
