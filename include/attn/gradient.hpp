// The backward pass of attention: from the gradient of its result to those of query, key and value,
// and of whatever else can be learned, in memory that does not grow with the lengths (but for the
// sums of a relative bias: its table once for each head of a sequence and part of its keys).
#pragma once

#include <attn/gradient_call.hpp>
#include <attn/heads_attention.hpp>
#include <attn/varlen.hpp>
#include <optional>

namespace attn::inline ATTN_ABI {
namespace detail {

template <class T>
void set_zero(const heads_view<T>& view) {
  if (view.shape().size() == 0) return;
  for (index b = 0; b < view.batch(); ++b) {
    for (index h = 0; h < view.heads(); ++h) {
      auto head = view.head(b, h);
      if (view.strides().col != 1) {
        head.setZero();
        continue;
      }
      // By rows: Eigen does not know that their elements lie side by side.
      for (index i = 0; i < view.length(); ++i) std::fill_n(&head(i, 0), view.width(), T(0));
    }
  }
}

/// How a backward pass was called: on matrices or on heads.
enum class given_as { matrices, heads };

/// Everything that a backward pass does, for one call.
template <class T, class Stored, class M, class F>
class gradient_pass {
 public:
  gradient_pass(const heads_call<T, Stored>& forward, const M& mask, const F& score_mod,
                const gradients& to, given_as form)
      : forward_(forward),
        mask_(mask),
        score_mod_(score_mod),
        to_(to),
        as_heads_(form == given_as::heads) {}

  /// Throws where the results of the forward pass do not fit, or anything is wrong with an output.
  void check(const heads_view<const T>& key, const heads_view<const T>& value,
             const forward_pass& from) {
    heads_shape shape = forward_.query.shape();
    shape.width = forward_.stored.value_width();
    from.out.check<T>("out", shape, as_heads_);
    from.out_gradient.check<T>("out_gradient", shape, as_heads_);
    views_.out = from.out.view<T>(shape);
    views_.out_gradient = from.out_gradient.view<T>(shape);
    shape.width = 1;
    from.log_sum_exp.check<T>("log_sum_exp", shape, as_heads_);
    views_.log_sum_exp = from.log_sum_exp.view<T>(shape);
    if (from.log_sum_exp_gradient) {
      from.log_sum_exp_gradient.check<T>("log_sum_exp_gradient", shape, as_heads_);
      views_.log_sum_exp_gradient = from.log_sum_exp_gradient.view<T>(shape);
    }

    outputs_.add_input("query", forward_.query);
    outputs_.add_input("key", key);
    outputs_.add_input("value", value);
    outputs_.add_input("out", views_.out);
    outputs_.add_input("out_gradient", views_.out_gradient);
    outputs_.add_input("log_sum_exp", views_.log_sum_exp);
    outputs_.add_input("log_sum_exp_gradient", views_.log_sum_exp_gradient);
    check_output("gradients.query", to_.query, forward_.query.shape(), as_heads_);
    check_output("gradients.key", to_.key, key.shape(), as_heads_);
    check_output("gradients.value", to_.value, value.shape(), as_heads_);
    if (to_.bias) {
      bias_ = bias_shape_of(mask_);
      check_output("gradients.bias", to_.bias, bias_.shape, bias_.of_heads);
    }
    if (to_.sink) {
      sinks_ = std::max<index>(forward_.options.sink.size(), 1);
      outputs_.check<T>("gradients.sink", to_.sink, sinks_, 1);
    }
    check_parameters();
    outputs_.require_apart_from_rules(mask_, score_mod_, forward_.options.sink);
    key_shape_ = key.shape();
    value_shape_ = value.shape();
  }

  /// Computes and writes them, after `check`.
  void run() {
    views_.query = open(to_.query, forward_.query.shape(), as_heads_);
    views_.key = open(to_.key, key_shape_, as_heads_);
    views_.value = open(to_.value, value_shape_, as_heads_);
    views_.bias = open(to_.bias, bias_.shape, bias_.of_heads);
    for (const heads_view<T>& view : {views_.query, views_.key, views_.value, views_.bias}) {
      set_zero(view);
    }

    workspace own;
    workspace& memory = forward_.options.workspace != nullptr ? *forward_.options.workspace : own;
    const backward_call<T, Stored> call(forward_, views_);
    const index count = to_.slopes || to_.relative_bias ? parameters_of(score_mod_) : 0;
    const auto numbers = static_cast<std::size_t>(call.parameter_tasks() * count);
    std::optional<workspace::lease> parameters;
    double* sums = nullptr;
    if (numbers > 0) {
      parameters.emplace(memory, numbers * sizeof(double));
      sums = static_cast<double*>(parameters->data());
      std::fill_n(sums, numbers, 0.0);
    }

    const simd set = instruction_set();
    const auto change = for_kernel(score_mod_);
    call.run(kernel::gradient_engine_on<T>(set), kernel::make_gradient_rules<T>(set, mask_, change),
             memory, sums, count);
    write_parameters(call, sums, count);
    if (to_.sink) {
      auto sink = to_.sink.template open<T>(sinks_, 1);
      sink.setZero();
      add_sink_gradients<T>(call, forward_.batch(), forward_.query.heads(), sinks_ == 1,
                            sink.data(), sink.rowStride());
    }
  }

 private:
  void check_output(const char* name, const output& target, const heads_shape& shape,
                    bool of_heads) {
    if (of_heads) {
      outputs_.check<T>(name, target, shape);
    } else {
      outputs_.check<T>(name, target, shape.length, shape.width);
    }
  }

  static heads_view<T> open(const output& target, const heads_shape& shape, bool of_heads) {
    if (!target) return {};
    if (of_heads) return target.open<T>(shape);
    auto matrix = target.open<T>(shape.length, shape.width);
    return one_head(matrix);
  }

  template <class Part>
  static constexpr bool has_slopes = std::is_same_v<Part, alibi>;

  void check_parameters() {
    int slopes = 0, tables = 0;
    each_with_parameters(score_mod_, [&]<class Part>(const Part& part, index) {
      if constexpr (has_slopes<Part>) {
        if (slopes++ == 0) outputs_.check<T>("gradients.slopes", to_.slopes, part.rows(), 1);
      } else if (tables++ == 0) {
        outputs_.check<T>("gradients.relative_bias", to_.relative_bias,
                          Part::is_vector ? part.parameters() : part.rows(),
                          Part::is_vector ? 1 : part.parameters());
      }
    });
    const auto require_one = [](std::string_view name, const output& target, int count,
                                std::string_view kind) {
      require(!target || count > 0, name, " is asked for, the score change has no ", kind);
      require(!target || count == 1, name, " is asked for, the score change has ", count, " of ",
              kind, ": one can be told");
    };
    require_one("gradients.slopes", to_.slopes, slopes, "alibi");
    require_one("gradients.relative_bias", to_.relative_bias, tables, "relative_bias");
  }

  /// Sums what the tasks left, in the order of sequences, heads and parts.
  void write_parameters(const backward_call<T, Stored>& call, const double* sums,
                        index count) const {
    if (count == 0) return;
    each_with_parameters(score_mod_, [&]<class Part>(const Part& part, index first) {
      const output& target = has_slopes<Part> ? to_.slopes : to_.relative_bias;
      if (!target) return;
      const index entries = part.parameters();
      bool turned = false;  // a row of the output an entry
      if constexpr (!has_slopes<Part>) turned = Part::is_vector;
      auto out = target.template open<T>(turned ? entries : part.rows(), turned ? 1 : entries);
      for (index row = 0; row < part.rows(); ++row) {
        for (index e = 0; e < entries; ++e) {
          double sum = 0;
          for (index b = 0; b < forward_.batch(); ++b) {
            for (index h = 0; h < forward_.query.heads(); ++h) {
              if (part.rows() > 1 && h != row) continue;
              for (index n = 0; n < call.parts(); ++n) {
                sum += sums[call.parameter_task(b, h, n) * count + first + e];
              }
            }
          }
          out(turned ? e : row, turned ? row : e) = static_cast<T>(sum);
        }
      }
    });
  }

  const heads_call<T, Stored>& forward_;
  const M& mask_;
  const F& score_mod_;
  const gradients& to_;
  bool as_heads_;
  gradient_views<T> views_;
  heads_shape key_shape_;
  heads_shape value_shape_;
  bias_shape bias_;
  index sinks_ = 0;
  call_outputs outputs_;
};

template <class T>
constexpr void require_gradient_type() {
  static_assert(has_kernel<T>,
                "attn: gradients are for float and double. Cast the matrices, or put "
                "Eigen::AutoDiffScalar through the stages.");
}

template <class T, class M, class F>
void backward_of_heads(const gradients& to, const forward_pass& from,
                       const heads_view<const T>& query, const heads_view<const T>& key,
                       const heads_view<const T>& value, const M& mask, const F& score_mod,
                       const options& options, given_as form) {
  if constexpr (has_kernel<T>) {  // else the message is enough
    check_batch_and_lengths(query, key, value, options);
    const viewed_keys<T> stored(key, value, query.batch(), options);
    const heads_call<T, viewed_keys<T>> call{query, stored, options};
    check_heads(call, "key");
    check_rules(call, key.length(), mask, score_mod);
    gradient_pass<T, viewed_keys<T>, M, F> pass(call, mask, score_mod, to, form);
    pass.check(key, value, from);
    pass.run();
  }
}

template <class T, class M, class F>
void backward_of_packed(const gradients& to, const forward_pass& from,
                        const heads_view<const T>& query, const heads_view<const T>& key,
                        const heads_view<const T>& value, const packed_starts& starts,
                        const M& mask, const F& score_mod, const options& options) {
  if constexpr (has_kernel<T>) {     // else the message is enough
    attn::options inputs = options;  // without results of the forward pass
    inputs.weights = {};
    check_packed_call(query, key, value, starts, inputs);
    const packed_keys<T> stored(key, value, starts.key);
    const heads_call<T, packed_keys<T>> call{query, stored, inputs, starts.query};
    check_heads(call, "key");
    check_rules(call, stored.longest(), mask, score_mod);
    gradient_pass<T, packed_keys<T>, M, F> pass(call, mask, score_mod, to, given_as::heads);
    pass.check(key, value, from);
    pass.run();
  }
}

}  // namespace detail

/// The gradients of `scaled_dot_product_attention` for one head. With out and lse = log_sum_exp as
/// the forward pass gave them, dO = out_gradient, dlse = log_sum_exp_gradient (0 where it is not
/// given), x the products times the scale, s the finished scores and K the factors of dropout:
///
///     P_ij  = exp(s_ij - lse_i)                    0 where the mask hides (i, j)
///     δ_i   = <dO_i, out_i> - dlse_i
///     ds_ij = P_ij (K_ij <dO_i, v_j> - δ_i)
///     dv_j  = Σ_i K_ij P_ij dO_i                   dx_ij = ds_ij · score_mod'(x_ij)
///     dq_i  = scale Σ_j dx_ij k_j                  dk_j  = scale Σ_i dx_ij q_i
///     dbias = ds, summed over what the bias is broadcast over
///     dsink = -Σ_i exp(sink - lse_i) δ_i
///
/// (Dao et al.: FlashAttention, 2022, §B.2, with what this library adds.) Query, key, value, mask,
/// score change and options are those of the forward pass, dropout among them; what the options
/// have for its results is left alone. A score change needs a derivative: those of this library
/// have theirs, a lambda that takes its score as `auto` gets it by a `dual`, others give it by
/// `with_derivative`.
///
/// A query that sees no key passes nothing back. Nothing in a hidden key, value, query or gradient
/// reaches any result, NaN and inf included (but for another rounding where there are such). A row
/// whose scores are all very large, such as all -1e9 by a bias, has a log-sum-exp without digits
/// for the logarithm, and so weights that do not sum to 1 here; hide by -inf or a boolean instead.
/// So has one with scores beyond 1e6 (float; double: 1e14) where there are at most 8 queries and
/// the forward pass was not `reproducible`: their scores are summed in another order there.
/// float and double. Takes some 2.5 times as long as the forward pass; bits do not depend on the
/// executor.
///
/// Throws std::invalid_argument as the forward pass does, and where a result of it does not fit,
/// or an output has another type or size, or shares memory with an input or another output. What a
/// function of the caller's throws reaches the caller; the gradients are unspecified then.
template <class Q, class K, class V, class M, class F>
  requires(!std::is_same_v<F, options>)
void scaled_dot_product_attention_backward(const gradients& to, const forward_pass& from,
                                           const Eigen::DenseBase<Q>& query,
                                           const Eigen::DenseBase<K>& key,
                                           const Eigen::DenseBase<V>& value, M&& mask,
                                           const F& score_mod, const attn::options& options = {}) {
  using T = typename Q::Scalar;
  detail::require_gradient_type<T>();
  detail::require_fitting_types<Q, K, V>();
  const auto& seen = as_mask(mask);
  attn::options inputs = options;  // without results of the forward pass
  inputs.log_sum_exp = {};
  inputs.weights = {};
  detail::checked_call<T>(query, key, value, seen, score_mod, inputs, {});
  const auto& q = detail::evaluated(query.derived());
  const auto& k = detail::evaluated(key.derived());
  const auto& v = detail::evaluated(value.derived());
  detail::backward_of_heads<T>(to, from, one_head(q), one_head(k), one_head(v), seen, score_mod,
                               options, detail::given_as::matrices);
}

/// The same without a score change.
template <class Q, class K, class V, class M>
  requires(!std::is_same_v<std::remove_cvref_t<M>, options>)
void scaled_dot_product_attention_backward(const gradients& to, const forward_pass& from,
                                           const Eigen::DenseBase<Q>& query,
                                           const Eigen::DenseBase<K>& key,
                                           const Eigen::DenseBase<V>& value, M&& mask,
                                           const attn::options& options = {}) {
  scaled_dot_product_attention_backward(to, from, query, key, value, mask, identity{}, options);
}

/// The same without a mask.
template <class Q, class K, class V>
void scaled_dot_product_attention_backward(const gradients& to, const forward_pass& from,
                                           const Eigen::DenseBase<Q>& query,
                                           const Eigen::DenseBase<K>& key,
                                           const Eigen::DenseBase<V>& value,
                                           const attn::options& options = {}) {
  scaled_dot_product_attention_backward(to, from, query, key, value, none{}, identity{}, options);
}

/// The same for many heads of many sequences: results of the forward pass and gradients are views
/// or arrays, those of a mask or score change in the shape of what they are for. Where key and
/// value have a single sequence for all of a batch, so have their gradients.
template <class Q, class K, class V, class M, class F>
  requires(detail::HeadsAmong<Q, K, V> && !std::is_same_v<F, options>)
void scaled_dot_product_attention_backward(const gradients& to, const forward_pass& from,
                                           const Q& query, const K& key, const V& value, M&& mask,
                                           const F& score_mod, const attn::options& options = {}) {
  if constexpr (detail::require_heads<Q, K, V>()) {
    using T = detail::heads_scalar<Q>;
    detail::require_gradient_type<T>();
    detail::backward_of_heads<T>(to, from, detail::as_heads(query), detail::as_heads(key),
                                 detail::as_heads(value), as_mask(mask), score_mod, options,
                                 detail::given_as::heads);
  }
}

/// The same without a score change.
template <class Q, class K, class V, class M>
  requires(detail::HeadsAmong<Q, K, V> && !std::is_same_v<std::remove_cvref_t<M>, options>)
void scaled_dot_product_attention_backward(const gradients& to, const forward_pass& from,
                                           const Q& query, const K& key, const V& value, M&& mask,
                                           const attn::options& options = {}) {
  scaled_dot_product_attention_backward(to, from, query, key, value, mask, identity{}, options);
}

/// The same without a mask.
template <class Q, class K, class V>
  requires detail::HeadsAmong<Q, K, V>
void scaled_dot_product_attention_backward(const gradients& to, const forward_pass& from,
                                           const Q& query, const K& key, const V& value,
                                           const attn::options& options = {}) {
  scaled_dot_product_attention_backward(to, from, query, key, value, none{}, identity{}, options);
}

/// The gradients of `packed_attention`, packed as its inputs are.
template <detail::HeadsOrMatrix Q, detail::HeadsOrMatrix K, detail::HeadsOrMatrix V, class M,
          class F>
  requires(!std::is_same_v<F, options>)
void packed_attention_backward(const gradients& to, const forward_pass& from, const Q& query,
                               const K& key, const V& value, const packed_starts& starts, M&& mask,
                               const F& score_mod, const attn::options& options = {}) {
  if constexpr (detail::require_heads<Q, K, V>()) {
    using T = detail::heads_scalar<Q>;
    detail::require_gradient_type<T>();
    detail::backward_of_packed<T>(to, from, detail::as_heads(query), detail::as_heads(key),
                                  detail::as_heads(value), starts, as_mask(mask), score_mod,
                                  options);
  }
}

/// The same without a score change.
template <detail::HeadsOrMatrix Q, detail::HeadsOrMatrix K, detail::HeadsOrMatrix V, class M>
  requires(!std::is_same_v<std::remove_cvref_t<M>, options>)
void packed_attention_backward(const gradients& to, const forward_pass& from, const Q& query,
                               const K& key, const V& value, const packed_starts& starts, M&& mask,
                               const attn::options& options = {}) {
  packed_attention_backward(to, from, query, key, value, starts, mask, identity{}, options);
}

/// The same without a mask.
template <detail::HeadsOrMatrix Q, detail::HeadsOrMatrix K, detail::HeadsOrMatrix V>
void packed_attention_backward(const gradients& to, const forward_pass& from, const Q& query,
                               const K& key, const V& value, const packed_starts& starts,
                               const attn::options& options = {}) {
  packed_attention_backward(to, from, query, key, value, starts, none{}, identity{}, options);
}

}  // namespace attn::inline ATTN_ABI
