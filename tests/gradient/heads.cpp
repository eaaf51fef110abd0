// Gradients of many heads of many sequences, against plain loops head by head: heads that share
// keys, sequences that share them, lengths, masks and parameters of heads, packed sequences.
#include "gradient/heads_support.hpp"

namespace attn_test {
namespace {

template <class T>
const T infinity = std::numeric_limits<T>::infinity();

template <class T>
void see_causally(training_batch<T>& of) {
  of.rules = [](gradient_problem<T>& g) {
    g.forward.visible = [](place at) { return at.key <= at.query; };
  };
}

template <class T>
void check(const training_batch<T>& of, const attn::options& given = {}) {
  const auto found = run_batch(of, attn::causal(), attn::identity(), {}, given);
  CHECK(batch_expectation<T>(of, {0, 0, 0, 0}, 0, 0).against(found) == "");
}

TEST_CASE("heads that share keys, in either order of memory") {
  generator g(951);
  for (const auto order : {heads_order::bhld, heads_order::blhd}) {
    for (const index key_heads : {1, 2, 4}) {
      CAPTURE(static_cast<int>(order), key_heads);
      auto of = any_batch<float>(g, {2, 4, 23, 6}, {2, key_heads, 37, 6}, 5, order);
      see_causally(of);
      check(of);
      auto wide = any_batch<double>(g, {3, 4, 18, 3}, {3, key_heads, 9, 3}, 4, order);
      see_causally(wide);
      check(wide);
    }
  }
  auto large = any_batch<float>(g, {2, 4, 1030, 4}, {2, 2, 1100, 4}, 3, heads_order::blhd);
  see_causally(large);
  check(large);
  check(large, {.executor = attn::std_threads(3)});
}

TEST_CASE("no heads, no sequences") {
  generator g(952);
  for (const heads_shape& n : {heads_shape{0, 2, 5, 3}, {2, 0, 5, 3}, {0, 0, 5, 3}}) {
    auto of = any_batch<float>(g, n, n, 4);
    see_causally(of);
    check(of);
  }

  const auto key = any_heads<float>(g, {2, 2, 5, 3});
  const attn::heads_array<float> none({2, 0, 5, 3}), no_sums({2, 0, 5, 1});
  attn::heads_array<float> query_gradient, key_gradient, value_gradient;
  attn::scaled_dot_product_attention_backward(
      {.key = key_gradient, .query = query_gradient, .value = value_gradient},
      {.log_sum_exp = no_sums, .out = none, .out_gradient = none}, none, key, key);
  CHECK(query_gradient.shape() == none.shape());
  CHECK(key_gradient.head(1, 1).isZero(0));
  CHECK(value_gradient.head(0, 1).isZero(0));
}

TEST_CASE("lengths of each sequence, and what lies beyond them is inert") {
  generator g(953);
  for (int repeat = 0; repeat < 6; ++repeat) {
    auto of = any_batch<float>(g, {4, 4, 30, 6}, {4, 2, 70, 6}, 5);
    for (int b = 0; b < 4; ++b) {
      of.query_lengths.push_back(b == 1 ? 0 : static_cast<int>(g.between(1, 30)));
      of.key_lengths.push_back(b == 2 ? 0 : static_cast<int>(g.between(1, 70)));
    }
    of.ends_meet = repeat % 2 == 0;
    of.padding = repeat < 3 ? attn::padding::right : attn::padding::left;
    see_causally(of);
    if (repeat % 3 == 2) of.sinks = {0.3};
    check(of);
    const auto sound = run_batch(of, attn::causal(), attn::identity());
    for (index b = 0; b < 4; ++b) {
      const index rows = 30 - of.queries(b).count, keys = 70 - of.keys(b).count;
      const auto spoil = [&](auto head, index padding, float by) {
        auto beyond =
            of.padding == attn::padding::left ? head.topRows(padding) : head.bottomRows(padding);
        beyond.setConstant(by);
      };
      for (index h = 0; h < 4; ++h) {
        spoil(of.q.head(b, h), rows, NAN);
        spoil(of.out_gradient.head(b, h), rows, NAN);
        spoil(of.log_sum_exp_gradient.head(b, h), rows, NAN);
        spoil(of.k.head(b, h / 2), keys, infinity<float>);
        spoil(of.v.head(b, h / 2), keys, NAN);
      }
    }
    const auto bad = run_batch(of, attn::causal(), attn::identity());
    check_same(sound.query, bad.query);
    check_same(sound.key, bad.key);
    check_same(sound.value, bad.value);
    CHECK(same_bits(sound.sink, bad.sink));
  }
}

TEST_CASE("keys of one sequence for all of a batch") {
  generator g(954);
  auto of = any_batch<float>(g, {3, 4, 20, 6}, {1, 2, 33, 6}, 5, heads_order::blhd);
  see_causally(of);
  check(of);
  check(of, {.executor = attn::std_threads(3)});
  of.key_lengths = {33, 7, 20};
  of.query_lengths = {3, 20, 0};
  check(of);
  of.padding = attn::padding::left;
  check(of);
  // Values alone may be shared as well.
  auto mixed = any_batch<double>(g, {3, 2, 9, 3}, {3, 2, 11, 3}, 4);
  const auto one_value = any_heads<double>(g, {1, 2, 11, 4});
  for (index b = 0; b < 3; ++b) {
    for (index h = 0; h < 2; ++h) mixed.v.head(b, h) = one_value.head(0, h);
  }
  see_causally(mixed);
  const batch_expectation<double> expected(mixed, {0, 0, 0, 0}, 0, 0);
  mixed.v = one_value;
  const auto found = run_batch(mixed, attn::causal(), attn::identity());
  REQUIRE(found.value.shape() == one_value.shape());
  for (index h = 0; h < 2; ++h) {
    matrix<long double> sum = expected.exact.value.head(0, h);
    for (index b = 1; b < 3; ++b) sum += expected.exact.value.head(b, h);
    CHECK((sum - found.value.head(0, h).cast<long double>()).cwiseAbs().maxCoeff() <=
          expected.allowed[of_value]);
    for (index b = 0; b < 3; ++b) {
      CHECK((expected.exact.key.head(b, h) - found.key.head(b, h).cast<long double>())
                .cwiseAbs()
                .maxCoeff() <= expected.allowed[of_key]);
    }
  }
}

template <class T>
void check_bias(generator& g, const heads_shape& query, const heads_shape& key,
                const heads_shape& shape, bool padded = false) {
  CAPTURE(to_text(query), to_text(key), to_text(shape), padded);
  auto of = any_batch<T>(g, query, key, 4);
  if (padded) {
    for (index b = 0; b < query.batch; ++b) {
      of.query_lengths.push_back(static_cast<int>(g.between(0, query.length)));
    }
    of.padding = attn::padding::left;
  }
  auto bias = any_heads<T>(g, shape);
  for (index n = 0; n < shape.size(); ++n) {
    if (g.chance(0.2)) bias.data()[n] = -infinity<T>;
  }
  of.rules = [&](gradient_problem<T>& p) {
    p.forward.visible = [](place at) { return at.key <= at.query; };
    p.forward.bias = [&](place at) {
      return static_cast<double>(bias(shape.batch == 1 ? 0 : at.batch,
                                      shape.heads == 1 ? 0 : at.head,
                                      shape.length == 1 ? 0 : at.row, at.key));
    };
  };
  const auto mask = attn::causal() & attn::as_mask(bias);
  const batch_expectation<T> expected(of, shape, 0, 0);
  const auto serial = run_batch(of, mask, attn::identity(), {.bias = true});
  CHECK(expected.against(serial) == "");
  const auto threads =
      run_batch(of, mask, attn::identity(), {.bias = true}, {.executor = attn::std_threads(3)});
  check_same(serial.bias, threads.bias);
  check_same(serial.key, threads.key);
}

TEST_CASE("a mask of numbers for heads, whatever it serves together") {
  generator g(955);
  for (const index batch : {1, 3}) {
    for (const index heads : {1, 4}) {
      for (const index rows : {1, 21}) {
        check_bias<float>(g, {3, 4, 21, 5}, {3, 2, 35, 5}, {batch, heads, rows, 35});
        check_bias<double>(g, {3, 4, 21, 5}, {1, 4, 9, 5}, {batch, heads, rows, 9});
      }
      // With a row for each query there may be no padding on the left.
      check_bias<float>(g, {3, 4, 21, 5}, {3, 2, 35, 5}, {batch, heads, 1, 35}, true);
      check_bias<double>(g, {3, 4, 21, 5}, {1, 4, 9, 5}, {batch, heads, 1, 9}, true);
    }
  }
  check_bias<float>(g, {2, 2, 1040, 3}, {2, 2, 1100, 3}, {1, 1, 1040, 1100});
  check_bias<float>(g, {2, 2, 1040, 3}, {2, 1, 1100, 3}, {1, 2, 1, 1100});
}

TEST_CASE("a matrix as the bias of all heads") {
  generator g(956);
  auto of = any_batch<float>(g, {2, 4, 12, 5}, {2, 2, 17, 5}, 4);
  const matrix<float> bias = any_matrix<matrix<float>>(g, 12, 17);
  of.rules = [&](gradient_problem<float>& p) { set_bias(p, bias); };
  const batch_expectation<float> expected(of, {1, 1, 12, 17}, 0, 0);
  heads_array<float> lse, dq;
  auto options = of.options();
  options.log_sum_exp = lse;
  const auto out = attn::scaled_dot_product_attention(of.q, of.k, of.v, bias, options);
  matrix<float> dbias;
  attn::scaled_dot_product_attention_backward({.bias = dbias, .query = dq},
                                              {.log_sum_exp = lse,
                                               .log_sum_exp_gradient = of.log_sum_exp_gradient,
                                               .out = out,
                                               .out_gradient = of.out_gradient},
                                              of.q, of.k, of.v, bias, options);
  CHECK(disagreement("bias", matrix<double>(expected.exact.bias.head(0, 0)),
                     matrix<double>(matrix<double>::Constant(12, 17, expected.allowed[of_bias])),
                     dbias, false) == "");
}

TEST_CASE("sinks of heads, or one for all") {
  generator g(957);
  for (const std::vector<double>& sinks : {std::vector<double>{0.4}, {0.1, -2, 1.5, 0}}) {
    for (const bool lengths : {false, true}) {
      auto of = any_batch<float>(g, {2, 4, 19, 5}, {2, 2, 25, 5}, 4);
      of.sinks = sinks;
      if (lengths) of.query_lengths = {19, 4};
      see_causally(of);
      check(of);
    }
  }
  auto of = any_batch<double>(g, {2, 3, 6, 5}, {2, 3, 7, 5}, 4);
  of.sinks = {0.4, -infinity<double>, 1};  // none for the head in the middle
  see_causally(of);
  check(of);
}

// One slope for all or one a head, one table for all or one a head; `rows` of each.
template <class T>
void check_parameters(generator& g, training_batch<T> of, index rows) {
  const index reach = of.q.shape().length + of.k.shape().length;
  of.entries = 2 * reach + 1;
  const matrix<double> table = any_matrix<matrix<double>>(g, rows, of.entries);
  std::vector<double> slopes;
  for (index h = 0; h < rows; ++h) slopes.push_back(g.uniform(0.01, 0.1));
  of.rules = [&](gradient_problem<T>& p) {
    const index row = rows == 1 ? 0 : p.forward.head;
    const double slope = slopes[static_cast<std::size_t>(row)];
    const auto distance = [](auto s, place at) {
      return static_cast<decltype(s)>(std::abs(at.query - at.key));
    };
    const auto before = [=](auto s, place at) {
      using Number = decltype(s);
      return s - static_cast<Number>(slope) * distance(s, at) +
             static_cast<Number>(table(row, reach + at.key - at.query));
    };
    p.forward.visible = [](place at) { return at.key <= at.query; };
    p.forward.change = [=](auto s, place at) { return 2 * std::tanh(before(s, at) / 2); };
    p.derivative = [=](auto s, place at) {
      const auto t = std::tanh(before(s, at) / 2);
      return 1 - t * t;
    };
    p.by_entry = p.derivative;
    p.by_slope = [=, by_score = p.derivative](auto s, place at) {
      return -distance(s, at) * by_score(s, at);
    };
    p.entry = [=](place at) { return reach + at.key - at.query; };
  };
  const auto change =
      attn::compose(attn::alibi(slopes), attn::relative_bias(table), attn::softcap(2));
  const wanted asked{.slopes = true, .table = true};
  const auto serial = run_batch(of, attn::causal(), change, asked);
  CHECK(batch_expectation<T>(of, {0, 0, 0, 0}, rows, rows).against(serial) == "");
  const auto threads =
      run_batch(of, attn::causal(), change, asked, {.executor = attn::std_threads(3)});
  CHECK(same_bits(serial.slope, threads.slope));
  CHECK(same_bits(serial.table, threads.table));
}

TEST_CASE("slopes and tables of heads, or one for all") {
  generator g(958);
  for (const index rows : {1, 4}) {
    CAPTURE(rows);
    check_parameters(g, any_batch<float>(g, {2, 4, 19, 5}, {2, 2, 25, 5}, 4), rows);
    check_parameters(g, any_batch<double>(g, {2, 4, 9, 5}, {1, 1, 12, 5}, 4), rows);
    check_parameters(g, any_batch<float>(g, {1, 4, 40, 3}, {1, 2, 1030, 3}, 2), rows);
    auto of = any_batch<float>(g, {3, 4, 19, 5}, {3, 2, 25, 5}, 4);
    of.query_lengths = {19, 0, 7};
    of.key_lengths = {2, 25, 20};
    check_parameters(g, of, rows);
  }
}

template <class T>
training_batch<T> any_packed(generator& g, heads_order order) {
  auto of = any_batch<T>(g, {1, 4, 60, 6}, {1, 2, 1300, 6}, 5, order);
  of.query_starts = {0, 5, 5, 20, 21, 21, 60, 60};
  of.key_starts = {0, 3, 50, 50, 1210, 1210, 1300, 1300};
  return of;
}

TEST_CASE("packed sequences, some of them empty") {
  generator g(959);
  for (const auto order : {heads_order::bhld, heads_order::blhd}) {
    auto of = any_packed<float>(g, order);
    see_causally(of);
    check(of);
    of.sinks = {0.3, 0.2, -1, 0};
    check(of);
    check(of, {.executor = attn::std_threads(3)});
    auto wide = any_packed<double>(g, order);
    see_causally(wide);
    wide.ends_meet = false;
    check(wide);
    check_parameters(g, wide, 4);
    check_parameters(g, wide, 1);
  }
}

TEST_CASE("a bias that packed sequences share has the gradient of one that a batch shares") {
  generator g(961);
  const heads_shape packed{1, 2, 3 * 40, 6};
  const auto q = any_heads<double>(g, packed), k = any_heads<double>(g, packed);
  const auto v = any_heads<double>(g, packed), out_gradient = any_heads<double>(g, packed);
  const auto bias = any_heads<double>(g, {1, 2, 40, 40});
  const auto mask = attn::causal() & attn::as_mask(bias);
  const std::vector<int> starts{0, 40, 80, 120};
  heads_array<double> sums, found, dq, dk, dv;
  const auto out = attn::packed_attention(q, k, v, starts, mask, {.log_sum_exp = sums});
  attn::packed_attention_backward({.bias = found, .key = dk, .query = dq, .value = dv},
                                  {.log_sum_exp = sums, .out = out, .out_gradient = out_gradient},
                                  q, k, v, starts, mask);

  heads_array<double> expected({1, 2, 40, 40});
  std::fill_n(expected.data(), expected.shape().size(), 0.0);
  for (index n = 0; n < 3; ++n) {
    const auto part = [&](const heads_array<double>& of) { return of.view().tokens(40 * n, 40); };
    heads_array<double> own_sums, own_bias, own_query, own_key, own_value;
    const auto own = attn::scaled_dot_product_attention(part(q), part(k), part(v), mask,
                                                        {.log_sum_exp = own_sums});
    attn::scaled_dot_product_attention_backward(
        {.bias = own_bias, .key = own_key, .query = own_query, .value = own_value},
        {.log_sum_exp = own_sums, .out = own, .out_gradient = part(out_gradient)}, part(q), part(k),
        part(v), mask);
    for (index h = 0; h < 2; ++h) {
      expected.head(0, h) += own_bias.head(0, h);
      const auto same = [&](const heads_array<double>& all, const heads_array<double>& own_part) {
        return (part(all).head(0, h) - own_part.head(0, h)).cwiseAbs().maxCoeff() < 1e-12;
      };
      CHECK(same(dq, own_query));
      CHECK(same(dk, own_key));
      CHECK(same(dv, own_value));
    }
  }
  for (index h = 0; h < 2; ++h) {
    CHECK((found.head(0, h) - expected.head(0, h)).cwiseAbs().maxCoeff() < 1e-12);
  }
}

TEST_CASE("tokens that lie backwards in memory, and features that do") {
  generator g(962);
  const heads_shape n{2, 2, 50, 7};
  const auto q = any_heads<float>(g, n), k = any_heads<float>(g, n), v = any_heads<float>(g, n);
  const auto out_gradient = any_heads<float>(g, n);
  const auto backwards = [&](auto& of) {
    return attn::heads_view(of.data() + n.size() - 1, n,
                            {-n.heads * n.length * n.width, -n.length * n.width, -n.width, -1});
  };
  const auto copied = [&](const heads_array<float>& of) {
    heads_array<float> turned(n);
    std::reverse_copy(of.data(), of.data() + n.size(), turned.data());
    return turned;
  };
  const auto gradients = [&](const auto& query, const auto& key, const auto& value,
                             const auto& gradient, const attn::gradients& to) {
    heads_array<float> sums;
    const auto out = attn::scaled_dot_product_attention(query, key, value, attn::causal(),
                                                        {.log_sum_exp = sums});
    attn::scaled_dot_product_attention_backward(
        to, {.log_sum_exp = sums, .out = out, .out_gradient = gradient}, query, key, value,
        attn::causal());
  };
  heads_array<float> dq, dk, dv, eq(n), ek(n), ev(n);
  gradients(copied(q), copied(k), copied(v), copied(out_gradient),
            {.key = dk, .query = dq, .value = dv});
  gradients(backwards(q), backwards(k), backwards(v), backwards(out_gradient),
            {.key = backwards(ek), .query = backwards(eq), .value = backwards(ev)});
  check_same(dq.view(), copied(eq).view());
  check_same(dk.view(), copied(ek).view());
  check_same(dv.view(), copied(ev).view());
}

TEST_CASE("what is awful in one packed sequence stays there") {
  generator g(960);
  auto of = any_packed<float>(g, heads_order::bhld);
  const auto sound = run_batch(of, attn::causal(), attn::identity());
  for (index h = 0; h < 2; ++h) {
    of.k.head(0, h).middleRows(50, 1160).setConstant(NAN);
    of.v.head(0, h).middleRows(50, 1160).setConstant(infinity<float>);
  }
  const auto bad = run_batch(of, attn::causal(), attn::identity());
  for (const auto& [first, count] : {std::pair{0, 20}, {21, 39}}) {
    check_same(sound.query.view().tokens(first, count), bad.query.view().tokens(first, count));
  }
  for (const auto& [first, count] : {std::pair{0, 50}, {1210, 90}}) {
    check_same(sound.key.view().tokens(first, count), bad.key.view().tokens(first, count));
    check_same(sound.value.view().tokens(first, count), bad.value.view().tokens(first, count));
  }
  CHECK(bad.query.head(0, 0).row(20).array().isNaN().all());
}

}  // namespace
}  // namespace attn_test
