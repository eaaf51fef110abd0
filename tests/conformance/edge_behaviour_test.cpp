// Masked rows, NaN, infinities, no keys: the scenarios on which libraries differ. Each row of ours
// has the class that the definition gives it, and the reference's numbers.

#include <attn/attn.hpp>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/reference.hpp"

namespace {

using attn::index;

// What a row may come to. In the tables below, a character a row.
constexpr char number = 'x';      // finite, with a finite log_sum_exp
constexpr char empty = '0';       // zero, with log_sum_exp -inf: it has no key
constexpr char poisoned = 'n';    // NaN throughout, log_sum_exp too: a score is NaN or +inf
constexpr char nan_values = 'v';  // NaN throughout, but the scores, and so log_sum_exp, are finite
constexpr char nan_column = 'c';  // NaN in the first column only: the value there is NaN
constexpr char inf_column = 'i';  // +inf in the first column only: the value there is +inf

template <class Scalar>
using real = attn_test::accumulator<Scalar>;

enum class masking : std::uint8_t { none, boolean, additive, causal };

template <class Scalar>
struct setting {
  attn_test::matrix<Scalar> q, k, v;
  attn_test::matrix<bool> visible;       // of masking::boolean
  attn_test::matrix<real<Scalar>> bias;  // of masking::additive

  void hide_key(index j) {
    visible.col(j).setConstant(false);
    bias.col(j).setConstant(-std::numeric_limits<real<Scalar>>::infinity());
  }
  void hide_row(index i) {
    visible.row(i).setConstant(false);
    bias.row(i).setConstant(-std::numeric_limits<real<Scalar>>::infinity());
  }
  // Key j gives every query the score `s`, times a positive number of the query's own.
  void steer(index j, Scalar s) {
    using std::abs;
    q.col(0) = q.col(0).unaryExpr([](Scalar x) { return Scalar(abs(x) + Scalar(1)); });
    k.row(j).setZero();
    k(j, 0) = s;
  }
};

template <class Scalar>
using preparation = std::function<void(setting<Scalar>&)>;

template <class Scalar>
struct scenario {
  std::string name;
  std::string rows;  // the class of each
  index keys;
  masking mask;
  preparation<Scalar> prepare;
  bool bottom_right = false;
};

template <class Scalar>
setting<Scalar> standard_normal(index queries, index keys) {
  std::mt19937 engine(2017);
  std::normal_distribution<float> normal;
  const auto draw = [&] { return Scalar(normal(engine)); };
  const index d = 4;
  return {attn_test::matrix<Scalar>::NullaryExpr(queries, d, draw),
          attn_test::matrix<Scalar>::NullaryExpr(keys, d, draw),
          attn_test::matrix<Scalar>::NullaryExpr(keys, d, draw),
          attn_test::matrix<bool>::Constant(queries, keys, true),
          attn_test::matrix<real<Scalar>>::Zero(queries, keys)};
}

template <class Scalar>
std::vector<scenario<Scalar>> masked_rows() {
  using S = setting<Scalar>;
  static constexpr auto lowest = std::numeric_limits<real<Scalar>>::lowest();
  return {
      {"boolean mask, row 1 all false", "x0x", 4, masking::boolean, [](S& s) { s.hide_row(1); }},
      {"additive mask, row 1 all -inf", "x0x", 4, masking::additive, [](S& s) { s.hide_row(1); }},
      {"additive mask, row 1 all lowest()", "xxx", 4, masking::additive,
       [](S& s) { s.bias.row(1).setConstant(lowest); }},
      {"additive mask, row 1 all -1e4", "xxx", 4, masking::additive,
       [](S& s) { s.bias.row(1).setConstant(-10000); }},
      {"boolean mask, every row all false", "000", 4, masking::boolean,
       [](S& s) { s.visible.setConstant(false); }},
      {"boolean mask, row 1 half false", "xxx", 4, masking::boolean,
       [](S& s) { s.visible.row(1).head(2).setConstant(false); }},
      {"bottom-right causal, 4 queries, 2 keys", "00xx", 2, masking::causal, nullptr, true},
      {"top-left causal, 4 queries, 2 keys", "xxxx", 2, masking::causal, nullptr},
      {"top-left causal, 3 queries, 4 keys", "xxx", 4, masking::causal, nullptr},
      {"no keys", "000", 0, masking::none, nullptr},
      {"no keys, boolean mask", "000", 0, masking::boolean, nullptr},
      {"one query, boolean mask all false", "0", 4, masking::boolean, [](S& s) { s.hide_row(0); }},
      {"600 keys, the first 590 -inf, row 1 all -inf", "x0x", 600, masking::additive,
       [](S& s) {
         for (index j = 0; j < 590; ++j) s.hide_key(j);
         s.hide_row(1);
       }},
  };
}

template <class Scalar>
std::vector<scenario<Scalar>> not_a_number() {
  using S = setting<Scalar>;
  static constexpr auto nan = std::numeric_limits<Scalar>::quiet_NaN;
  const auto nan_query = [](S& s) { s.q.row(s.q.rows() / 2).setConstant(nan()); };
  const auto nan_key = [](S& s) { s.k.row(3).setConstant(nan()); };
  const auto nan_value = [](S& s) { s.v(3, 0) = nan(); };
  const auto and_hidden = [](auto prepare) {
    return [prepare](S& s) {
      prepare(s);
      s.hide_key(3);
    };
  };
  return {
      {"NaN in query 1", "xnx", 4, masking::none, nan_query},
      {"NaN in key 3", "nnn", 4, masking::none, nan_key},
      {"NaN in key 3, hidden by a boolean mask", "xxx", 4, masking::boolean, and_hidden(nan_key)},
      {"NaN in key 3, hidden by -inf", "xxx", 4, masking::additive, and_hidden(nan_key)},
      {"NaN in key 3, hidden by causal", "xxx", 4, masking::causal, nan_key},
      {"NaN in value (3, 0)", "ccc", 4, masking::none, nan_value},
      {"NaN in value (3, 0), hidden by a boolean mask", "xxx", 4, masking::boolean,
       and_hidden(nan_value)},
      {"NaN in value (3, 0), hidden by causal", "xxx", 4, masking::causal, nan_value},
      {"NaN in every value, row 1 all false", "v0v", 4, masking::boolean,
       [](S& s) {
         s.v.setConstant(nan());
         s.hide_row(1);
       }},
      {"NaN in the additive mask at (1, 2)", "xnx", 4, masking::additive,
       [](S& s) { s.bias(1, 2) = std::numeric_limits<real<Scalar>>::quiet_NaN(); }},
      {"one query, NaN", "n", 4, masking::none, nan_query},
      {"NaN in key 0", "nnn", 4, masking::none, [](S& s) { s.k.row(0).setConstant(nan()); }},
      {"NaN in every key", "nnn", 4, masking::none, [](S& s) { s.k.setConstant(nan()); }},
      {"600 keys, NaN in key 5", "nnn", 600, masking::none,
       [](S& s) { s.k.row(5).setConstant(nan()); }},
      {"600 keys, NaN in query 1", "xnx", 600, masking::none, nan_query},
  };
}

template <class Scalar>
std::vector<scenario<Scalar>> infinities() {
  using S = setting<Scalar>;
  static constexpr auto inf = std::numeric_limits<Scalar>::infinity;
  const auto inf_value = [](S& s) { s.v(3, 0) = inf(); };
  return {
      {"+inf in value (3, 0)", "iii", 4, masking::none, inf_value},
      {"+inf in value (3, 0), hidden by a boolean mask", "xxx", 4, masking::boolean,
       [inf_value](S& s) {
         inf_value(s);
         s.hide_key(3);
       }},
      {"+inf in key 3, hidden by a boolean mask", "xxx", 4, masking::boolean,
       [](S& s) {
         s.k.row(3).setConstant(inf());
         s.hide_key(3);
       }},
      {"score of key 3 is +inf", "nnn", 4, masking::none, [](S& s) { s.steer(3, inf()); }},
      {"score of key 3 is -inf", "xxx", 4, masking::none, [](S& s) { s.steer(3, -inf()); }},
      {"every score is -inf", "000", 4, masking::none,
       [](S& s) {
         for (index j = 0; j < 4; ++j) s.steer(j, -inf());
       }},
      {"finite query and key, score (1, 2) overflows", "xnx", 4, masking::none,
       [](S& s) {
         const real<Scalar> large = 8 * std::sqrt(std::numeric_limits<real<Scalar>>::max());
         s.steer(2, Scalar(large));
         s.q(1, 0) = Scalar(large);
       }},
      {"+inf in the additive mask at (1, 2)", "xnx", 4, masking::additive,
       [](S& s) { s.bias(1, 2) = std::numeric_limits<real<Scalar>>::infinity(); }},
      {"scores of 5000 and 5100", "xxx", 4, masking::none,
       [](S& s) {
         s.q.setZero();
         s.k.setZero();
         s.q.col(0).setConstant(Scalar(100));
         s.k.col(0).setConstant(Scalar(100));
         s.k(1, 0) = Scalar(102);
       }},
  };
}

template <class Row, class Number>
char class_of(const Row& out, Number lse) {
  const auto all = [&](index from, auto holds) {
    for (index c = from; c < out.size(); ++c) {
      if (!holds(static_cast<double>(out(c)))) return false;
    }
    return true;
  };
  const auto is_nan = [](double x) { return std::isnan(x); };
  const auto is_finite = [](double x) { return std::isfinite(x); };
  const auto is_zero = [](double x) { return x == 0; };
  const double first = static_cast<double>(out(0));
  if (lse == -std::numeric_limits<Number>::infinity()) return all(0, is_zero) ? empty : '?';
  if (std::isnan(lse)) return all(0, is_nan) ? poisoned : '?';
  if (!std::isfinite(lse)) return '?';
  if (all(0, is_finite)) return number;
  if (all(0, is_nan)) return nan_values;
  if (!all(1, is_finite)) return '?';
  return std::isnan(first) ? nan_column : first > 0 ? inf_column : '?';
}

template <class Scalar>
void check(const scenario<Scalar>& given) {
  INFO(given.name);
  const auto queries = static_cast<index>(given.rows.size());
  setting<Scalar> s = standard_normal<Scalar>(queries, given.keys);
  if (given.prepare) given.prepare(s);

  attn_test::matrix<Scalar> out;
  attn_test::vector<real<Scalar>> lse;
  attn_test::matrix<real<Scalar>> weights;
  const attn::options options{.alignment = given.bottom_right ? attn::bottom_right : attn::top_left,
                              .log_sum_exp = lse,
                              .weights = weights};
  attn_test::problem<Scalar> formula{s.q, s.k, s.v};
  switch (given.mask) {
    case masking::none:
      out = attn::scaled_dot_product_attention(s.q, s.k, s.v, options);
      break;
    case masking::boolean:
      out = attn::scaled_dot_product_attention(s.q, s.k, s.v, s.visible, options);
      formula.visible = [&](attn_test::place at) { return s.visible(at.row, at.key); };
      break;
    case masking::additive:
      out = attn::scaled_dot_product_attention(s.q, s.k, s.v, s.bias, options);
      formula.bias = [&](attn_test::place at) { return double(s.bias(at.row, at.key)); };
      break;
    case masking::causal:
      out = attn::scaled_dot_product_attention(s.q, s.k, s.v, attn::causal(), options);
      formula.visible = [](attn_test::place at) { return at.key <= at.query; };
      formula.offset = given.bottom_right ? given.keys - queries : 0;
      break;
  }

  std::string rows;
  for (index i = 0; i < queries; ++i) rows += class_of(out.row(i), lse(i));
  CHECK(rows == given.rows);
  const auto expected = attn_test::expect(formula);
  CHECK(expected.against(out) == "");
  CHECK(expected.against_log_sum_exp(lse) == "");
  CHECK(expected.against_weights(weights) == "");
}

template <class Scalar>
void check_all(const std::vector<scenario<Scalar>>& scenarios) {
  for (const scenario<Scalar>& given : scenarios) check(given);
}

}  // namespace

TEMPLATE_TEST_CASE("a row without keys is 0 and its log_sum_exp -inf", "", float, double,
                   Eigen::bfloat16) {
  check_all(masked_rows<TestType>());
}

TEMPLATE_TEST_CASE("NaN reaches the rows that see it, and no other", "", float, double,
                   Eigen::bfloat16) {
  check_all(not_a_number<TestType>());
}

TEMPLATE_TEST_CASE("infinite scores and values", "", float, double, Eigen::bfloat16) {
  check_all(infinities<TestType>());
}
