// Seeded cases: numbers, shapes, problems, masks with their truth, score changes with theirs.
// The same seed gives the same cases everywhere, which std::*_distribution does not promise.
#pragma once

#include <attn/derivative.hpp>
#include <attn/mask.hpp>
#include <attn/score_mod.hpp>
#include <cstdint>
#include <memory>

#include "support/reference.hpp"

namespace attn_test {

// SplitMix64.
class generator {
 public:
  explicit generator(std::uint64_t seed) : state_(seed) {}

  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  // Both ends included.
  index between(index low, index high) {
    return low + static_cast<index>(next() % static_cast<std::uint64_t>(high - low + 1));
  }
  double uniform(double low = -1, double high = 1) {
    return low + (high - low) * (static_cast<double>(next() >> 11) * 0x1p-53);
  }
  bool chance(double probability) { return uniform(0, 1) < probability; }
  template <class T>
  const T& one_of(const std::vector<T>& values) {
    return values[static_cast<std::size_t>(between(0, static_cast<index>(values.size()) - 1))];
  }

 private:
  std::uint64_t state_;
};

template <class Matrix>
Matrix any_matrix(generator& g, index rows, index cols, double size = 1) {
  Matrix m(rows, cols);
  for (index i = 0; i < rows; ++i) {
    for (index j = 0; j < cols; ++j) {
      m(i, j) = static_cast<typename Matrix::Scalar>(g.uniform(-size, size));
    }
  }
  return m;
}

struct shape {
  index queries, keys, d, dv;
};

// Lengths around the edges of the tiles that kernels are likely to have.
inline const std::vector<index>& edge_lengths() {
  static const std::vector<index> lengths{1,  2,  3,  4,  7,  8,  9,  15, 16,  17,  31,  32, 33,
                                          47, 48, 49, 63, 64, 65, 96, 97, 127, 128, 129, 257};
  return lengths;
}

inline shape any_shape(generator& g, index longest = 40) {
  return {g.between(1, longest), g.between(1, longest), g.between(1, 20), g.between(1, 20)};
}

// Every edge length once as the number of queries and once as the number of keys.
inline std::vector<shape> edge_shapes(generator& g) {
  std::vector<shape> shapes;
  for (const index length : edge_lengths()) {
    shapes.push_back({length, g.one_of(edge_lengths()), g.between(1, 20), g.between(1, 20)});
    shapes.push_back({g.one_of(edge_lengths()), length, g.between(1, 20), g.between(1, 20)});
  }
  return shapes;
}

// `size` bounds the inputs, so scores grow with its square.
template <class Scalar>
problem<Scalar> any_problem(generator& g, shape n, double size = 1.5) {
  return {.q = any_matrix<matrix<Scalar>>(g, n.queries, n.d, size),
          .k = any_matrix<matrix<Scalar>>(g, n.keys, n.d, size),
          .v = any_matrix<matrix<Scalar>>(g, n.keys, n.dv, size)};
}

// For masks of types outside of namespace attn.
using attn::operator&, attn::operator|, attn::operator~;

// A mask of the library behind one type, so that a test over all masks compiles the call once.
class any_mask {
 public:
  template <class M>
    requires(!std::is_same_v<M, any_mask> && attn::Mask<M>)
  any_mask(M mask) : held_(std::make_shared<const model<M>>(std::move(mask))) {}

  bool visible(attn::position at) const { return held_->visible(at); }
  attn::coverage cover(attn::tile t) const { return held_->cover(t); }
  void check(const attn::call_shape& shape) const { held_->check(shape); }

 private:
  struct face {
    virtual ~face() = default;
    virtual bool visible(attn::position at) const = 0;
    virtual attn::coverage cover(attn::tile t) const = 0;
    virtual void check(const attn::call_shape& shape) const = 0;
  };
  template <class M>
  struct model final : face {
    explicit model(M m) : mask(std::move(m)) {}
    bool visible(attn::position at) const override { return mask.visible(at); }
    attn::coverage cover(attn::tile t) const override { return mask.cover(t); }
    void check(const attn::call_shape& shape) const override {
      if constexpr (requires { mask.check(shape); }) mask.check(shape);
    }
    M mask;
  };
  std::shared_ptr<const face> held_;
};

// A mask of the library's beside what it should mean.
struct mask_case {
  std::string name;
  any_mask mask;
  std::function<bool(place)> visible;
  bool exact_cover = false;  // its cover is not only a bound, but the truth
};

using boolean_matrix = Eigen::Matrix<bool, Eigen::Dynamic, Eigen::Dynamic>;

inline boolean_matrix any_boolean(generator& g, index rows, index cols, double visible = 0.6) {
  boolean_matrix m(rows, cols);
  for (index i = 0; i < rows; ++i) {
    for (index j = 0; j < cols; ++j) m(i, j) = g.chance(visible);
  }
  return m;
}

inline std::vector<mask_case> matrix_masks(generator& g, index queries, index keys) {
  const boolean_matrix full = any_boolean(g, queries, keys), row = any_boolean(g, 1, keys);
  const boolean_matrix finite = any_boolean(g, queries, keys);
  const Eigen::MatrixXf hiding =
      finite.unaryExpr([](bool b) { return b ? 0.0f : -std::numeric_limits<float>::infinity(); });
  return {
      {"boolean matrix", attn::as_mask(boolean_matrix(full)),
       [=](place at) { return full(at.row, at.key); }},
      {"boolean row", attn::as_mask(boolean_matrix(row)), [=](place at) { return row(0, at.key); }},
      {"boolean expression", attn::as_mask(full.array() == true),
       [=](place at) { return full(at.row, at.key); }},
      {"additive matrix of 0 and -inf", attn::as_mask(Eigen::MatrixXf(hiding)),
       [=](place at) { return finite(at.row, at.key); }},
  };
}

// One of each kind. Masks given as matrices belong to this many queries and keys.
inline std::vector<mask_case> every_mask(generator& g, index queries, index keys) {
  const index n = g.between(0, keys), left = g.between(0, keys), right = g.between(0, keys);
  const index length = g.between(0, keys);
  std::vector<int> ids;
  for (index j = 0; j < keys - g.between(0, 2); ++j) ids.push_back(static_cast<int>(j * 5 / keys));
  std::vector<int> mixed(ids);
  for (int& id : mixed) id = static_cast<int>(g.between(0, 2));
  const auto same_document = [](const std::vector<int>& list) {
    return [list](place at) {
      const auto size = static_cast<index>(list.size());
      if (at.query < 0 || at.query >= size || at.key >= size) return false;
      return list[static_cast<std::size_t>(at.query)] == list[static_cast<std::size_t>(at.key)];
    };
  };

  std::vector<mask_case> cases{
      {"none", attn::none(), [](place) { return true; }, true},
      {"causal", attn::causal(), [](place at) { return at.key <= at.query; }, true},
      {"sliding_window(n)", attn::sliding_window(n),
       [=](place at) { return std::abs(at.key - at.query) <= n; }, true},
      {"sliding_window(left, right)", attn::sliding_window(left, right),
       [=](place at) { return at.key - at.query >= -left && at.key - at.query <= right; }, true},
      {"sliding_window(unbounded, right)", attn::sliding_window(attn::unbounded, right),
       [=](place at) { return at.key - at.query <= right; }, true},
      {"sliding_window(left, unbounded)", attn::sliding_window(left, attn::unbounded),
       [=](place at) { return at.key - at.query >= -left; }, true},
      {"sliding_window(0, 0)", attn::sliding_window(0, 0),
       [](place at) { return at.key == at.query; }, true},
      {"sliding_window(0, -1)", attn::sliding_window(0, -1),
       [](place at) { return at.key >= at.query; }, true},
      {"sliding_window(-1, -1)", attn::sliding_window(-1, -1), [](place) { return true; }, true},
      {"key_padding", attn::key_padding(length), [=](place at) { return at.key < length; }, true},
      {"prefix", attn::prefix(n), [=](place at) { return at.key < n || at.key <= at.query; }, true},
      {"documents", attn::documents(ids), same_document(ids)},
      {"interleaved documents", attn::documents(mixed), same_document(mixed)},
      {"lambda of query and key",
       attn::as_mask([](attn::index p, attn::index j) { return (3 * p + j) % 4 != 0; }),
       [](place at) { return (3 * at.query + at.key) % 4 != 0; }},
      {"lambda of a position",
       attn::as_mask([](attn::position at) { return (at.row + at.query * at.key) % 3 != 0; }),
       [](place at) { return (at.row + at.query * at.key) % 3 != 0; }},
      {"predicate", attn::predicate([](attn::index p, attn::index j) { return (p ^ j) & 1; }),
       [](place at) { return ((at.query ^ at.key) & 1) != 0; }},
  };
  for (mask_case& c : matrix_masks(g, queries, keys)) cases.push_back(std::move(c));
  return cases;
}

// The library's operators, each beside what it means for a pair. A composition's cover is a bound.
inline mask_case negation(const mask_case& a) {
  return {"~(" + a.name + ")", ~a.mask, [f = a.visible](place at) { return !f(at); },
          a.exact_cover};
}
inline mask_case conjunction(const mask_case& a, const mask_case& b) {
  return {"(" + a.name + " & " + b.name + ")", a.mask & b.mask,
          [f = a.visible, h = b.visible](place at) { return f(at) && h(at); }};
}
inline mask_case disjunction(const mask_case& a, const mask_case& b) {
  return {"(" + a.name + " | " + b.name + ")", a.mask | b.mask,
          [f = a.visible, h = b.visible](place at) { return f(at) || h(at); }};
}

// A random expression over the cases.
inline mask_case any_composition(generator& g, const std::vector<mask_case>& cases, int depth) {
  if (depth == 0) return g.one_of(cases);
  const mask_case a = any_composition(g, cases, depth - 1);
  if (g.chance(0.3)) return negation(a);
  const mask_case b = any_composition(g, cases, depth - 1);
  return g.chance(0.5) ? conjunction(a, b) : disjunction(a, b);
}

template <class Scalar>
using any_score_mod = std::function<accumulator<Scalar>(accumulator<Scalar>, attn::position)>;

// A score change of the library's beside what it should mean.
template <class Scalar>
struct change_case {
  std::string name;
  any_score_mod<Scalar> library;
  score_change<Scalar> truth;
};

template <class Scalar, class F>
any_score_mod<Scalar> as_score_mod(F f) {
  return [f](accumulator<Scalar> s, attn::position at) {
    if constexpr (std::is_invocable_v<F, accumulator<Scalar>, attn::position>) {
      return f(s, at);
    } else {
      return f(s);
    }
  };
}

// A score change with a derivative behind one type, so that a test over all compiles the call once.
template <class S>
class any_smooth_change {
 public:
  template <class F>
    requires(!std::is_same_v<F, any_smooth_change>)
  explicit any_smooth_change(F f)
      : change_([f](S s, attn::position at) { return attn::detail::change(f, s, at); }),
        derivative_([f](S s, attn::position at) { return attn::detail::derivative(f, s, at); }),
        check_([f](const attn::call_shape& shape) { attn::detail::check(f, shape); }) {}

  S operator()(S s, attn::position at) const { return change_(s, at); }
  S derivative(S s, attn::position at) const { return derivative_(s, at); }
  void check(const attn::call_shape& shape) const { check_(shape); }

 private:
  std::function<S(S, attn::position)> change_, derivative_;
  std::function<void(const attn::call_shape&)> check_;
};

// One of each kind, and compositions in both orders. They keep scores small: near a score of 40,
// the rounding of a single dot product decides between neighbours that are 4e-6 apart, and whether
// the plain formula errs less than another is chance.
template <class Scalar>
std::vector<change_case<Scalar>> every_score_change(generator& g, shape n, index offset) {
  const double cap = g.uniform(0.5, 4), slope = g.uniform(0.01, 0.1);
  const index reach =
      std::max(std::abs(n.queries - 1 + offset) + n.keys, n.keys + std::abs(offset));
  const auto table =
      any_matrix<Eigen::Matrix<double, Eigen::Dynamic, 1>>(g, 2 * reach + 1, 1).eval();

  const auto capped = [=](auto s) {
    using Number = decltype(s);
    return static_cast<Number>(cap) * std::tanh(s / static_cast<Number>(cap));
  };
  const auto tilted = [=](auto s, place at) {
    using Number = decltype(s);
    return s - static_cast<Number>(slope) * static_cast<Number>(std::abs(at.query - at.key));
  };
  const auto looked_up = [=](auto s, place at) {
    return s + static_cast<decltype(s)>(table(reach + at.key - at.query));
  };
  const auto library_table = attn::relative_bias(Eigen::VectorXd(table));
  return {
      {"identity", as_score_mod<Scalar>(attn::identity()), [](auto s, place) { return s; }},
      {"softcap", as_score_mod<Scalar>(attn::softcap(cap)),
       [=](auto s, place) { return capped(s); }},
      {"alibi", as_score_mod<Scalar>(attn::alibi(slope)), tilted},
      {"relative_bias", as_score_mod<Scalar>(library_table), looked_up},
      {"lambda of a score", as_score_mod<Scalar>([](auto s) { return s * s / 4; }),
       [](auto s, place) { return s * s / 4; }},
      {"lambda of a score and its position", as_score_mod<Scalar>([](auto s, attn::position at) {
         return at.key % 2 == 0 ? -s : s + static_cast<decltype(s)>(at.row - at.query) / 64;
       }),
       [](auto s, place at) {
         return at.key % 2 == 0 ? -s : s + static_cast<decltype(s)>(at.row - at.query) / 64;
       }},
      {"softcap, then alibi",
       as_score_mod<Scalar>(attn::compose(attn::softcap(cap), attn::alibi(slope))),
       [=](auto s, place at) { return tilted(capped(s), at); }},
      {"alibi, then softcap",
       as_score_mod<Scalar>(attn::compose(attn::alibi(slope), attn::softcap(cap))),
       [=](auto s, place at) { return capped(tilted(s, at)); }},
      {"relative_bias, then a lambda, then softcap",
       as_score_mod<Scalar>(attn::compose(
           library_table, [](auto s) { return 2 * s; }, attn::softcap(cap))),
       [=](auto s, place at) { return capped(2 * looked_up(s, at)); }},
  };
}

}  // namespace attn_test
