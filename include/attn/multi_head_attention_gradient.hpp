// The layer's backward pass: what a forward pass keeps for it, and the gradients of all inputs and
// parameters from that of the result.
#pragma once

#include <Eigen/Core>
#include <attn/gradient.hpp>
#include <attn/projection.hpp>
#include <string_view>
#include <utility>
#include <vector>

namespace attn::inline ATTN_ABI {

/// A row a token, one after the other in memory.
template <class Scalar>
using token_matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// Copies of what was put in: of self-attention, ...
template <class Scalar>
struct self_attention_input {
  token_matrix<Scalar> x;  ///< a row a token
};
/// ... of self-attention of packed sequences, ...
template <class Scalar>
struct packed_attention_input {
  token_matrix<Scalar> x;           ///< a row a token
  std::vector<index> query_starts;  ///< where sequences start, as in packed_starts
  std::vector<index> key_starts;    ///< the same for keys
};
/// ... and of attention to something else.
template <class Scalar>
struct cross_attention_inputs {
  token_matrix<Scalar> query;  ///< a row a query
  token_matrix<Scalar> key;    ///< a row a key
  token_matrix<Scalar> value;  ///< a row a key
};

/// What `multi_head_attention::forward` keeps for `backward`. It owns all its numbers: inputs may
/// be temporaries, and it may be copied and moved. Its size grows with the tokens, not with their
/// pairs.
template <class Scalar, class Inputs>
struct multi_head_attention_tape {
  Inputs inputs;  ///< as given
  /// Projected, heads side by side.
  token_matrix<Scalar> query;  ///< a row a query
  token_matrix<Scalar> key;    ///< a row a key
  token_matrix<Scalar> value;  ///< a row a key
  /// The heads' results side by side, not yet projected.
  token_matrix<Scalar> joined;
  /// 1 x heads x queries x 1.
  heads_array<Scalar> log_sum_exp;
  /// What was left out; `backward` must be told the same.
  attn::dropout dropout;
};

/// What `multi_head_attention::forward` gives: `auto [out, tape] = layer.forward(x)`.
template <class Out, class Tape>
struct output_with_tape {
  Out out;    ///< the result
  Tape tape;  ///< for `backward`
};

/// Gradients of parameters, in the order, by the names and in the shapes of `layer.parameters()`:
/// an optimiser walks both lists side by side.
template <class Scalar>
using parameter_gradients =
    std::vector<named_parameter<Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>>>;

/// What `multi_head_attention::backward` gives for self-attention, packed or not.
template <class Scalar>
struct self_attention_gradients {
  parameter_gradients<Scalar> parameters;  ///< in the order of `parameters()`
  /// Of x as query, key and value together.
  token_matrix<Scalar> x;  ///< a row a token
};

/// What it gives for attention of query to key and value.
template <class Scalar>
struct cross_attention_gradients {
  token_matrix<Scalar> key;                ///< a row a key
  parameter_gradients<Scalar> parameters;  ///< in the order of `parameters()`
  token_matrix<Scalar> query;              ///< a row a query
  token_matrix<Scalar> value;              ///< a row a key
};

namespace detail {

/// A third argument that is a matrix is a value, not a score change.
template <class F>
inline constexpr bool may_be_score_mod = !std::is_same_v<F, options> && !EigenDense<F>;

/// The forward and backward pass of `multi_head_attention`, from which `Layer` inherits them. float
/// and double.
template <class Layer, class Scalar>
class trainable {
 public:
  /// Self-attention as `layer(x, x, x, mask, score_mod, options)`, with what `backward` needs.
  /// x: L x width. Returns {out, tape}, out being L x width, in the order of x. Computes in rows,
  /// so that for an x in columns the result may be rounded otherwise than that of the call.
  ///
  /// For training, set options.dropout, with another seed for each step. Throws
  /// std::invalid_argument as the call does.
  template <class X>
  auto forward(const Eigen::DenseBase<X>& x, const attn::options& options = {}) const {
    return forward(x, none{}, identity{}, options);
  }

  template <class X, class M>
    requires(!std::is_same_v<M, options>)
  auto forward(const Eigen::DenseBase<X>& x, const M& mask,
               const attn::options& options = {}) const {
    return forward(x, mask, identity{}, options);
  }

  template <class X, class M, class F>
    requires(may_be_score_mod<F>)
  auto forward(const Eigen::DenseBase<X>& x, const M& mask, const F& score_mod,
               const attn::options& options = {}) const {
    require_trainable<X>();
    return record<X>(self_attention_input<Scalar>{x.derived().matrix()}, mask, score_mod, options);
  }

  /// The same for `layer(query, key, value, mask, score_mod, options)`: out is Lq x width, in the
  /// query's order.
  template <class Q, class K, class V>
  auto forward(const Eigen::DenseBase<Q>& query, const Eigen::DenseBase<K>& key,
               const Eigen::DenseBase<V>& value, const attn::options& options = {}) const {
    return forward(query, key, value, none{}, identity{}, options);
  }

  template <class Q, class K, class V, class M>
    requires(!std::is_same_v<M, options>)
  auto forward(const Eigen::DenseBase<Q>& query, const Eigen::DenseBase<K>& key,
               const Eigen::DenseBase<V>& value, const M& mask,
               const attn::options& options = {}) const {
    return forward(query, key, value, mask, identity{}, options);
  }

  template <class Q, class K, class V, class M, class F>
    requires(may_be_score_mod<F>)
  auto forward(const Eigen::DenseBase<Q>& query, const Eigen::DenseBase<K>& key,
               const Eigen::DenseBase<V>& value, const M& mask, const F& score_mod,
               const attn::options& options = {}) const {
    require_trainable<Q, K, V>();
    return record<Q>(
        cross_attention_inputs<Scalar>{query.derived().matrix(), key.derived().matrix(),
                                       value.derived().matrix()},
        mask, score_mod, options);
  }

  /// The same for `layer.packed(x, starts, mask, score_mod, options)`.
  template <class X>
  auto forward_packed(const Eigen::DenseBase<X>& x, const packed_starts& starts,
                      const attn::options& options = {}) const {
    return forward_packed(x, starts, none{}, identity{}, options);
  }

  template <class X, class M>
    requires(!std::is_same_v<M, options>)
  auto forward_packed(const Eigen::DenseBase<X>& x, const packed_starts& starts, const M& mask,
                      const attn::options& options = {}) const {
    return forward_packed(x, starts, mask, identity{}, options);
  }

  template <class X, class M, class F>
    requires(may_be_score_mod<F>)
  auto forward_packed(const Eigen::DenseBase<X>& x, const packed_starts& starts, const M& mask,
                      const F& score_mod, const attn::options& options = {}) const {
    require_trainable<X>();
    const auto copied = [](integers list) {
      std::vector<index> copy;
      for (index i = 0; i < list.size(); ++i) copy.push_back(list[i]);
      return copy;
    };
    return record<X>(packed_attention_input<Scalar>{x.derived().matrix(), copied(starts.query),
                                                    copied(starts.key)},
                     mask, score_mod, options);
  }

  /// The gradients of a loss, from out_gradient = d loss / d out (Lq x width) and the tape of a
  /// forward pass: those of the parameters and of x, or of query, key and value, in their shapes.
  /// With dy = out_gradient and A as in `scaled_dot_product_attention_backward`:
  ///
  ///     dW_o = joinedᵀ dy          db_o = Σ_i dy_i       djoined = dy W_oᵀ
  ///     dq, dk, dv = A(djoined)    of all heads side by side
  ///     dW_q = queryᵀ dq           db_q = Σ_i dq_i       dquery = dq W_qᵀ      key, value likewise
  ///
  /// Mask, score change and options are those of the forward pass, and so are the layer's
  /// parameters: change them afterwards. Of these, only dropout is checked. `also` takes the
  /// gradients of a bias, a table, slopes or sinks, where these are learned. A token that nothing
  /// comes back for is inert, even where it is NaN.
  ///
  /// Throws std::invalid_argument where tape, out_gradient, mask or options do not fit the layer or
  /// one another, before anything is written.
  template <class Inputs, class D>
  auto backward(const multi_head_attention_tape<Scalar, Inputs>& tape,
                const Eigen::DenseBase<D>& out_gradient, const attn::options& options = {},
                const gradients& also = {}) const {
    return backward(tape, out_gradient, none{}, identity{}, options, also);
  }

  template <class Inputs, class D, class M>
    requires(!std::is_same_v<M, options>)
  auto backward(const multi_head_attention_tape<Scalar, Inputs>& tape,
                const Eigen::DenseBase<D>& out_gradient, const M& mask,
                const attn::options& options = {}, const gradients& also = {}) const {
    return backward(tape, out_gradient, mask, identity{}, options, also);
  }

  template <class Inputs, class D, class M, class F>
    requires(may_be_score_mod<F>)
  auto backward(const multi_head_attention_tape<Scalar, Inputs>& tape,
                const Eigen::DenseBase<D>& out_gradient, const M& mask, const F& score_mod,
                const attn::options& options = {}, const gradients& also = {}) const {
    require_trainable<D>();
    check_tape(tape);
    require(out_gradient.rows() == tape.query.rows() && out_gradient.cols() == layer().width(),
            "out_gradient is ", out_gradient.rows(), " x ", out_gradient.cols(),
            ", it should be as the result, ", tape.query.rows(), " x ", layer().width());
    check_dropout_is(tape.dropout, options.dropout);
    require(!also.query && !also.key && !also.value,
            "also.query, key or value is given: their gradients are returned");
    check_is_apart(also, tape.inputs);
    const rows y_gradient = out_gradient.derived().matrix();
    const projected through = attention_backward(tape, y_gradient, mask, score_mod, options, also);
    auto result = input_gradients(tape.inputs, through);
    with_inputs(tape.inputs, [&](const rows& query, const rows& key, const rows& value) {
      layer().query_.add_gradients(result.parameters, "query", query, through.query);
      layer().key_.add_gradients(result.parameters, "key", key, through.key);
      layer().value_.add_gradients(result.parameters, "value", value, through.value);
    });
    layer().output_.add_gradients(result.parameters, "output", tape.joined, y_gradient);
    return result;
  }

 private:
  using rows = token_matrix<Scalar>;

  /// Gradients of the projected query, key and value.
  struct projected {
    rows query, key, value;
  };

  trainable() = default;
  friend Layer;  // nobody else inherits

  [[nodiscard]] const Layer& layer() const { return static_cast<const Layer&>(*this); }

  template <class... Inputs>
  static constexpr void require_trainable() {
    require_gradient_type<Scalar>();
    require_scalar<Scalar, Inputs...>();
  }

  /// use(query, key, value)
  template <class Inputs, class Use>
  static auto with_inputs(const Inputs& inputs, const Use& use) {
    if constexpr (requires { inputs.x; }) {
      return use(inputs.x, inputs.x, inputs.x);
    } else {
      return use(inputs.query, inputs.key, inputs.value);
    }
  }

  /// The result has the order of an X.
  template <class X, class Inputs, class M, class F>
  auto record(Inputs inputs, const M& mask, const F& score_mod,
              const attn::options& options) const {
    layer().refuse_outputs(options);
    multi_head_attention_tape<Scalar, Inputs> tape;
    tape.inputs = std::move(inputs);
    tape.dropout = options.dropout;
    attn::options kept = options;
    kept.log_sum_exp = tape.log_sum_exp;
    const auto attention = [&](const output& joined, const auto&... qkv) {
      if constexpr (requires { tape.inputs.key_starts; }) {
        packed_attention_into(joined, qkv..., starts_of(tape.inputs), mask, score_mod, kept);
      } else {
        scaled_dot_product_attention_into(joined, qkv..., mask, score_mod, kept);
      }
    };
    const auto keep = [&](rows&& query, rows&& key, rows&& value, rows&& joined) {
      tape.query = std::move(query);
      tape.key = std::move(key);
      tape.value = std::move(value);
      tape.joined = std::move(joined);
    };
    using out = rows_by_cols<Scalar, X, rows>;
    out y = with_inputs(
        tape.inputs, [&](const auto&... qkv) { return layer().attend(qkv..., attention, keep); });
    return output_with_tape<out, decltype(tape)>{std::move(y), std::move(tape)};
  }

  static packed_starts starts_of(const packed_attention_input<Scalar>& inputs) {
    return {inputs.query_starts, inputs.key_starts};
  }

  /// Throws unless the tape is as `record` leaves it.
  template <class Tape>
  void check_tape(const Tape& tape) const {
    const auto require_shape = [](std::string_view name, const rows& m, index length, index width) {
      require(m.rows() == length && m.cols() == width, "the tape's projected ", name, " is ",
              m.rows(), " x ", m.cols(), ", it should be ", length, " x ", width,
              ": a tape is of the same layer's forward");
    };
    with_inputs(tape.inputs, [&](const rows& query, const rows& key, const rows& value) {
      layer().check_inputs(query, key, value, "the tape's ");
      const index width = layer().heads() * layer().head_width();
      const index value_width = layer().heads() * layer().value_head_width();
      require_shape("query", tape.query, query.rows(), width);
      require_shape("key", tape.key, key.rows(), width);
      require_shape("value", tape.value, key.rows(), value_width);
      require_shape("result", tape.joined, query.rows(), value_width);
      const heads_shape shape{1, layer().heads(), query.rows(), 1};
      require(tape.log_sum_exp.shape() == shape, "the tape's log_sum_exp has the shape ",
              tape.log_sum_exp.shape(), ", it should have ", shape,
              ": a tape is of the same layer's forward");
    });
  }

  static void check_dropout_is(const attn::dropout& kept, const attn::dropout& given) {
    const bool dropped = kept.probability != 0 || given.probability != 0;
    require(!dropped || (given.probability == kept.probability && given.seed == kept.seed),
            "options.dropout has probability ", given.probability, " and seed ", given.seed,
            ", it should be as in forward, ", kept.probability, " and ", kept.seed);
  }

  /// Throws where `also` shares memory with what is read after it has been written.
  template <class Inputs>
  void check_is_apart(const gradients& also, const Inputs& inputs) const {
    const auto check = [&](std::string_view name, const output& target) {
      if (!target) return;
      const footprint bytes = target.is_heads() ? footprint_of(target.now_heads<Scalar>())
                                                : footprint_of(target.now<Scalar>());
      const auto require_apart_from = [&](std::string_view what, const auto& read) {
        require(!may_overlap(bytes, footprint_of(read)), "also.", name, " overlaps ", what,
                " in memory: it would be written before that is read");
      };
      for (const auto& parameter : layer().parameters()) {
        require_apart_from(parameter.name, parameter.values);
      }
      with_inputs(inputs, [&](const auto&... of_tape) {
        (require_apart_from("the tape's inputs", of_tape), ...);
      });
    };
    check("bias", also.bias);
    check("relative_bias", also.relative_bias);
    check("sink", also.sink);
    check("slopes", also.slopes);
  }

  template <class Tape, class M, class F>
  projected attention_backward(const Tape& tape, const rows& y_gradient, const M& mask,
                               const F& score_mod, const attn::options& options,
                               const gradients& also) const {
    const index heads = layer().heads();
    rows joined_gradient(tape.joined.rows(), tape.joined.cols());
    joined_gradient.noalias() = layer().output_.input_gradient(y_gradient);
    const forward_pass from{.log_sum_exp = tape.log_sum_exp,
                            .out = split_heads(tape.joined, heads),
                            .out_gradient = split_heads(joined_gradient, heads)};
    const auto like = [](const rows& m) { return rows(m.rows(), m.cols()); };
    projected result{like(tape.query), like(tape.key), like(tape.value)};
    gradients to = also;
    to.query = split_heads(result.query, heads);
    to.key = split_heads(result.key, heads);
    to.value = split_heads(result.value, heads);
    const auto q = split_heads(tape.query, heads);
    const auto k = split_heads(tape.key, heads);
    const auto v = split_heads(tape.value, heads);
    if constexpr (requires { tape.inputs.key_starts; }) {
      packed_attention_backward(to, from, q, k, v, starts_of(tape.inputs), mask, score_mod,
                                options);
    } else {
      scaled_dot_product_attention_backward(to, from, q, k, v, mask, score_mod, options);
    }
    return result;
  }

  template <class Inputs>
  auto input_gradients(const Inputs& inputs, const projected& through) const {
    const auto query = layer().query_.input_gradient(through.query);
    const auto key = layer().key_.input_gradient(through.key);
    const auto value = layer().value_.input_gradient(through.value);
    if constexpr (requires { inputs.x; }) {
      self_attention_gradients<Scalar> result;
      result.x = query;
      result.x.noalias() += key;
      result.x.noalias() += value;
      return result;
    } else {
      return cross_attention_gradients<Scalar>{
          .key = key, .parameters = {}, .query = query, .value = value};
    }
  }
};

}  // namespace detail
}  // namespace attn::inline ATTN_ABI
