// Many heads in one call: the one-head call in a loop, bit for bit, for every layout, grouping,
// mask and length, and nothing of padding in the result.
#include <array>
#include <attn/block_mask.hpp>
#include <attn/heads_attention.hpp>
#include <attn/varlen.hpp>
#include <unsupported/Eigen/CXX11/Tensor>

#include "heads/support.hpp"

namespace attn_test {
namespace {

using attn::heads_array;
using attn::heads_order;
using attn::heads_shape;
using attn::heads_view;

constexpr float nan = std::numeric_limits<float>::quiet_NaN();

struct sizes {
  index batch = 2, heads = 6, key_heads = 2, queries = 9, keys = 13, d = 5, dv = 7;
};

// Each head by the one-head call, with that head's own mask and score change.
template <class T, class Mask, class Change>
void check_heads(const heads_view<const T>& q, const heads_view<const T>& k,
                 const heads_view<const T>& v, const attn::options& options, const Mask& mask,
                 const Change& change, const heads_array<T>& out,
                 const heads_array<attn::accumulator_t<T>>& lse,
                 const heads_array<attn::accumulator_t<T>>& weights) {
  for (index b = 0; b < q.batch(); ++b) {
    const index queries = options.query_lengths ? options.query_lengths[b] : q.length();
    const index keys = options.key_lengths ? options.key_lengths[b] : k.length();
    const bool left = options.padding == attn::padding::left;
    const index first = left ? q.length() - queries : 0, first_key = left ? k.length() - keys : 0;
    const index from = k.batch() == 1 ? 0 : b;
    for (index h = 0; h < q.heads(); ++h) {
      const index group = h / (q.heads() / k.heads());
      CAPTURE(b, h, queries, keys, left);
      Eigen::Matrix<attn::accumulator_t<T>, Eigen::Dynamic, Eigen::Dynamic> head_weights;
      Eigen::Matrix<attn::accumulator_t<T>, Eigen::Dynamic, 1> head_lse;
      attn::options one{.alignment = options.alignment, .scale = options.scale};
      one.sink = options.sink.of(h);
      one.log_sum_exp = head_lse;
      if (options.weights) one.weights = head_weights;
      const auto expected = attn::scaled_dot_product_attention(
          q.head(b, h).middleRows(first, queries), k.head(from, group).middleRows(first_key, keys),
          v.head(from, group).middleRows(first_key, keys), mask(b, h), change(b, h), one);
      using S = attn::accumulator_t<T>;
      using rows = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>;
      rows all_rows = rows::Zero(q.length(), expected.cols());
      all_rows.middleRows(first, queries) = expected;
      CHECK(same_bits(out.head(b, h), all_rows));
      Eigen::Matrix<S, Eigen::Dynamic, 1> all_lse(q.length());
      all_lse.setConstant(-std::numeric_limits<S>::infinity());
      all_lse.segment(first, queries) = head_lse;
      CHECK(same_bits(lse.head(b, h), all_lse));
      if (options.weights) {
        decltype(head_weights) all = decltype(head_weights)::Zero(q.length(), k.length());
        all.block(first, first_key, queries, keys) = head_weights;
        CHECK(same_bits(weights.head(b, h), all));
      }
    }
  }
}

template <class T>
void check_all(generator& g, const sizes& n, heads_order order) {
  CAPTURE(n.queries, n.keys, n.heads, n.key_heads, order == heads_order::blhd);
  const auto q = any_heads<T>(g, {n.batch, n.heads, n.queries, n.d}, order);
  const auto k = any_heads<T>(g, {n.batch, n.key_heads, n.keys, n.d}, order);
  const auto v = any_heads<T>(g, {n.batch, n.key_heads, n.keys, n.dv}, order);
  heads_array<attn::accumulator_t<T>> lse, weights;
  for (const bool with_weights : {false, true}) {
    attn::options options{.alignment = attn::bottom_right, .log_sum_exp = lse};
    if (with_weights) options.weights = weights;
    const auto plain = [](index, index) { return attn::identity(); };
    const auto check = [&](const auto& mask, const auto& change, const auto& head_change) {
      const auto out = attn::scaled_dot_product_attention(q, k, v, mask, change, options);
      CHECK(out.order() == (n.heads == 1 ? heads_order::bhld : order));
      check_heads<T>(
          q.view(), k.view(), v.view(), options, [&](index, index) { return mask; }, head_change,
          out, lse, weights);
    };
    check(attn::none(), attn::identity(), plain);
    check(attn::causal(), attn::identity(), plain);
    check(attn::sliding_window(3, 1), attn::softcap(2),
          [](index, index) { return attn::softcap(2); });
    check(attn::none(), attn::alibi(attn::alibi_slopes(n.heads)), [&](index, index h) {
      return attn::alibi(attn::alibi_slopes(n.heads)[static_cast<std::size_t>(h)]);
    });
  }
}

TEST_CASE("every layout, grouping and length gives the one-head call's bits") {
  generator g(401);
  for (const heads_order order : {heads_order::bhld, heads_order::blhd}) {
    for (const auto& [heads, key_heads] :
         {std::pair<index, index>{1, 1}, {4, 4}, {6, 2}, {5, 1}, {36, 1}}) {
      check_all<float>(g, {.heads = heads, .key_heads = key_heads}, order);
      check_all<float>(g, {.heads = heads, .key_heads = key_heads, .queries = 60, .keys = 140},
                       order);
      check_all<float>(g, {.heads = heads, .key_heads = key_heads, .queries = 3, .keys = 1100},
                       order);
      check_all<double>(g, {.heads = heads, .key_heads = key_heads, .queries = 2, .keys = 200},
                        order);
    }
    check_all<Eigen::half>(g, {}, order);
    check_all<float>(g, {.batch = 20, .heads = 2, .queries = 1, .keys = 150}, order);
  }
}

template <class T>
void check_lengths(generator& g, heads_order order, attn::padding side) {
  const T awful(nan);
  auto q = any_heads<T>(g, {4, 4, 9, 6}, order);
  auto k = any_heads<T>(g, {4, 2, 300, 6}, order);
  auto v = any_heads<T>(g, {4, 2, 300, 5}, order);
  const std::vector<int> queries{9, 0, 3, 7};
  const std::vector<attn::index> keys{300, 17, 0, 141};
  const auto spoil = [&](auto head, attn::index padding) {
    auto rows = side == attn::padding::left ? head.topRows(padding) : head.bottomRows(padding);
    rows.setConstant(awful);
  };
  for (index b = 0; b < 4; ++b) {
    const auto at = static_cast<std::size_t>(b);
    for (index h = 0; h < 4; ++h) spoil(q.head(b, h), 9 - queries[at]);
    for (index h = 0; h < 2; ++h) spoil(k.head(b, h), 300 - keys[at]);
    for (index h = 0; h < 2; ++h) spoil(v.head(b, h), 300 - keys[at]);
  }
  heads_array<attn::accumulator_t<T>> lse, weights;
  attn::options options{.alignment = attn::bottom_right,
                        .key_lengths = keys,
                        .log_sum_exp = lse,
                        .padding = side,
                        .query_lengths = queries};
  for (const bool with_weights : {false, true}) {
    if (with_weights) options.weights = weights;
    const auto out = attn::scaled_dot_product_attention(q, k, v, attn::causal(), options);
    check_heads<T>(
        q.view(), k.view(), v.view(), options, [](index, index) { return attn::causal(); },
        [](index, index) { return attn::identity(); }, out, lse, weights);
  }
}

TEST_CASE("lengths of sequences on either side, with what is awful beyond them") {
  generator g(402);
  for (const heads_order order : {heads_order::bhld, heads_order::blhd}) {
    for (const auto side : {attn::padding::right, attn::padding::left}) {
      check_lengths<float>(g, order, side);
      check_lengths<Eigen::half>(g, order, side);
    }
  }
}

TEST_CASE("padding as a mask hides the same and moves no alignment") {
  generator g(414);
  for (const heads_order order : {heads_order::bhld, heads_order::blhd}) {
    const auto q = any_heads<float>(g, {4, 4, 9, 6}, order);
    const auto k = any_heads<float>(g, {4, 2, 300, 6}, order);
    const auto v = any_heads<float>(g, {4, 2, 300, 5}, order);
    const std::vector<attn::index> keys{300, 17, 0, 141};
    attn::options options{.alignment = attn::offset(300), .key_lengths = keys};
    const auto by_length = attn::scaled_dot_product_attention(q, k, v, attn::causal(), options);
    options.key_lengths = {};
    const auto by_mask =
        attn::scaled_dot_product_attention(q, k, v, attn::key_padding(keys), options);
    for (index i = 0; i < by_mask.shape().size(); ++i) {
      REQUIRE(std::abs(by_mask.data()[i] - by_length.data()[i]) < 1e-5f);
    }
  }
}

TEST_CASE("a batch padded on the left attends to itself as one by one") {
  generator g(415);
  const auto x = any_heads<float>(g, {3, 2, 80, 6});
  const std::vector<int> lengths{80, 1, 53};
  const auto seen = [](attn::position at) {
    return at.key <= at.query && (at.row + at.batch + at.key) % 3 != 1;
  };
  const auto out = attn::scaled_dot_product_attention(
      x, x, x, seen,
      {.key_lengths = lengths, .padding = attn::padding::left, .query_lengths = lengths});
  for (index b = 0; b < 3; ++b) {
    const index n = lengths[static_cast<std::size_t>(b)];
    const auto own = x.view().sequences(b, 1).tokens(80 - n, n);
    const auto alone = attn::scaled_dot_product_attention(own, own, own, [&](attn::position at) {
      return at.key <= at.query && (at.row + b + at.key) % 3 != 1;
    });
    check_same(out.view().sequences(b, 1).tokens(80 - n, n), alone.view());
  }
}

TEST_CASE("masks of many heads, with extents of 1") {
  generator g(403);
  const sizes n{.queries = 20, .keys = 150};
  const auto q = any_heads<float>(g, {n.batch, n.heads, n.queries, n.d});
  const auto k = any_heads<float>(g, {n.batch, n.key_heads, n.keys, n.d});
  const auto v = any_heads<float>(g, {n.batch, n.key_heads, n.keys, n.dv});
  heads_array<float> lse, weights;
  const attn::options options{.log_sum_exp = lse};
  const auto plain = [](index, index) { return attn::identity(); };
  for (const index batch : {index{1}, n.batch}) {
    for (const index heads : {index{1}, n.heads}) {
      for (const index rows : {index{1}, n.queries}) {
        CAPTURE(batch, heads, rows);
        const auto bias = any_heads<float>(g, {batch, heads, rows, n.keys});
        heads_array<bool> visible({batch, heads, rows, n.keys}, heads_order::blhd);
        for (index i = 0; i < visible.shape().size(); ++i) visible.data()[i] = g.chance(0.6);
        const auto of = [&](const auto& mask) {
          return [&](index b, index h) {
            using element = std::remove_cvref_t<decltype(mask(0, 0, 0, 0))>;
            return attn::as_mask(Eigen::Matrix<element, Eigen::Dynamic, Eigen::Dynamic>(
                mask.head(batch == 1 ? 0 : b, heads == 1 ? 0 : h)));
          };
        };
        auto out = attn::scaled_dot_product_attention(q, k, v, bias, options);
        check_heads<float>(q.view(), k.view(), v.view(), options, of(bias), plain, out, lse,
                           weights);
        out = attn::scaled_dot_product_attention(q, k, v, visible, options);
        check_heads<float>(q.view(), k.view(), v.view(), options, of(visible), plain, out, lse,
                           weights);
        out = attn::scaled_dot_product_attention(q, k, v, attn::as_mask(visible) & bias, options);
        check_heads<float>(
            q.view(), k.view(), v.view(), options,
            [&](index b, index h) { return of(visible)(b, h) & of(bias)(b, h); }, plain, out, lse,
            weights);
      }
    }
  }
}

TEST_CASE("a large mask for which heads take turns") {
  generator g(414);
  // On any instruction set as many blocks as have a factor in common with the heads: a block that
  // is taken for another shows. They take turns at a block, or at some, the last time at fewer.
  for (const sizes& n :
       {sizes{.heads = 4, .queries = 288, .keys = 460},
        {.heads = 4, .key_heads = 4, .queries = 288, .keys = 460, .d = 80, .dv = 80}}) {
    const auto q = any_heads<float>(g, {n.batch, n.heads, n.queries, n.d});
    const auto k = any_heads<float>(g, {n.batch, n.key_heads, n.keys, n.d});
    const auto v = any_heads<float>(g, {n.batch, n.key_heads, n.keys, n.dv});
    const auto bias = any_heads<float>(g, {n.batch, 1, n.queries, n.keys});
    heads_array<float> lse;
    for (const int threads : {1, 3}) {
      const attn::options options{.executor = attn::std_threads(threads), .log_sum_exp = lse};
      const auto out = attn::scaled_dot_product_attention(q, k, v, bias, options);
      check_heads<float>(
          q.view(), k.view(), v.view(), options,
          [&](index b, index) { return attn::as_mask(Eigen::MatrixXf(bias.head(b, 0))); },
          [](index, index) { return attn::identity(); }, out, lse, {});
    }
  }
}

// Each head sees every third stretch of keys, another one than its neighbours.
struct stretch_of_head {
  static constexpr attn::index keys = 128;
  [[nodiscard]] bool visible(attn::position at) const { return at.key / keys % 3 == at.head % 3; }
  [[nodiscard]] attn::coverage cover(attn::tile t) const {
    if (t.key / keys != t.last_key() / keys) return attn::coverage::some;
    return t.key / keys % 3 == t.head % 3 ? attn::coverage::all : attn::coverage::none;
  }
};

TEST_CASE("a mask that shows each head of a group other tiles") {
  generator g(413);
  for (const index queries : {1, 3, 60}) {
    const auto q = any_heads<float>(g, {2, 6, queries, 8});
    const auto k = any_heads<float>(g, {2, 2, 900, 8});
    const auto v = any_heads<float>(g, {2, 2, 900, 5});
    const auto visible = [](attn::position at) { return stretch_of_head().visible(at); };
    const attn::options options{.alignment = attn::bottom_right};
    const auto tiled = attn::scaled_dot_product_attention(q, k, v, stretch_of_head(), options);
    const auto each =
        attn::scaled_dot_product_attention(q, k, v, attn::predicate(visible), options);
    for (index b = 0; b < 2; ++b) {
      for (index h = 0; h < 6; ++h) {
        CAPTURE(queries, b, h);
        CHECK((tiled.head(b, h) - each.head(b, h)).cwiseAbs().maxCoeff() <= 1e-6f);
      }
    }
  }
}

TEST_CASE("sinks, one a head") {
  generator g(404);
  for (const index keys : {40, 300}) {
    const auto q = any_heads<float>(g, {2, 4, 3, 6}), k = any_heads<float>(g, {2, 4, keys, 6});
    heads_array<float> lse, weights;
    const std::vector<float> logits{0.5f, -1, -std::numeric_limits<float>::infinity(), 3};
    const attn::options options{.log_sum_exp = lse, .sink = logits};
    const auto out = attn::scaled_dot_product_attention(q, k, k, options);
    check_heads<float>(
        q.view(), k.view(), k.view(), options, [](index, index) { return attn::none(); },
        [](index, index) { return attn::identity(); }, out, lse, weights);
  }
}

TEST_CASE("lists without a name are kept, those with one are referred to") {
  generator g(511);
  const auto q = any_heads<float>(g, {2, 2, 3, 4});
  std::vector<int> lengths{2, 3};
  const std::vector<float> logits{1, 2};
  const auto result = [&](const attn::options& options) {
    return attn::scaled_dot_product_attention(q, q, q, options);
  };
  const auto expected = result({.key_lengths = lengths, .sink = logits});
  attn::options kept{.key_lengths = std::vector<int>(lengths), .sink = std::vector<float>(logits)};
  const attn::options copied = kept;
  kept = {.key_lengths = std::array<std::int64_t, 2>{2, 3}, .sink = Eigen::Vector2d(1, 2)};
  check_same(result(copied).view(), expected.view());
  check_same(result(kept).view(), expected.view());
  check_same(result({.key_lengths = {2, 3}, .sink = logits}).view(), expected.view());
  const attn::key_padding mask(std::vector<int>{2, 3}), same({2, 3});
  check_same(attn::scaled_dot_product_attention(q, q, q, mask, {.sink = logits}).view(),
             expected.view());
  check_same(attn::scaled_dot_product_attention(q, q, q, same, {.sink = logits}).view(),
             expected.view());

  // Views of what is gone soon, and what was moved from.
  const auto ending_in = [&](int length) {
    return Eigen::VectorXi((Eigen::Vector3i() << 2, 3, length).finished());
  };
  attn::key_padding part(ending_in(0).head(2));
  const attn::key_padding moved(std::move(part)),
      computed(Eigen::Ref<const Eigen::VectorXi>((ending_in(0) * 1).head(2)));
  const attn::key_padding listed(std::initializer_list<std::int32_t>{2, 3});
  // NOLINTNEXTLINE(bugprone-use-after-move): that it is safe is what is tested
  for (const attn::key_padding& each : {part, moved, computed, listed}) {
    check_same(attn::scaled_dot_product_attention(q, q, q, each, {.sink = logits}).view(),
               expected.view());
  }
  struct two_lengths {
    int at[2];
  };
  check_same(result({.key_lengths = two_lengths{{2, 3}}.at, .sink = logits}).view(),
             expected.view());

  const attn::options referred{.key_lengths = lengths, .sink = logits};
  lengths = {3, 3};
  check_same(result(referred).view(), result({.sink = logits}).view());
  const attn::packed_starts starts(std::vector<int>{0, 1, 3}), two{{0, 1, 3}, lengths};
  CHECK(starts.key[2] == 3);
  CHECK(two.query[1] == 1);
}

TEST_CASE("one sequence of keys serves a batch") {
  generator g(405);
  const auto q = any_heads<float>(g, {3, 4, 5, 6}), k = any_heads<float>(g, {1, 2, 200, 6});
  heads_array<float> lse, weights;
  const attn::options options{.log_sum_exp = lse};
  const auto out = attn::scaled_dot_product_attention(q, k, k, options);
  check_heads<float>(
      q.view(), k.view(), k.view(), options, [](index, index) { return attn::none(); },
      [](index, index) { return attn::identity(); }, out, lse, weights);
}

// The same numbers in every form that a view is made of.
TEST_CASE("views of matrices, tensors and pointers are the same call") {
  generator g(406);
  const index batch = 2, heads = 3, length = 10, d = 4;
  const auto packed = any_matrix<matrix<float>>(g, batch * length, 3 * heads * d);
  const auto parts = attn::split_qkv(packed, heads, heads, batch);
  const auto expected = attn::scaled_dot_product_attention(parts.query, parts.key, parts.value);
  CHECK(expected.order() == heads_order::blhd);

  const auto check = [&](const auto& q, const auto& k, const auto& v) {
    check_same(attn::scaled_dot_product_attention(q, k, v), expected);
  };
  const auto side = heads * d;
  const matrix<float> q = packed.leftCols(side), k = packed.middleCols(side, side),
                      v = packed.rightCols(side);
  check(attn::split_heads(q, heads, batch), attn::split_heads(k, heads, batch),
        attn::split_heads(v, heads, batch));
  const Eigen::MatrixXf q_columns = q, k_columns = k, v_columns = v;
  check(attn::split_heads(q_columns, heads, batch), attn::split_heads(k_columns, heads, batch),
        attn::split_heads(v_columns, heads, batch));
  const heads_shape n{batch, heads, length, d};
  check(attn::blhd(q.data(), n), attn::blhd(k.data(), n), attn::blhd(v.data(), n));

  Eigen::Tensor<float, 4, Eigen::RowMajor> tensor(batch, length, heads, d);
  std::copy_n(k.data(), k.size(), tensor.data());
  check(parts.query, attn::blhd(tensor), parts.value);
  Eigen::Tensor<float, 4> columns(batch, heads, length, d);
  for (index b = 0; b < batch; ++b) {
    for (index h = 0; h < heads; ++h) {
      for (index i = 0; i < length; ++i) {
        for (index c = 0; c < d; ++c) columns(b, h, i, c) = parts.key(b, h, i, c);
      }
    }
  }
  check(parts.query, attn::bhld(columns), parts.value);
  const Eigen::TensorMap<const Eigen::Tensor<float, 4>> map(columns.data(), columns.dimensions());
  check(parts.query, attn::bhld(map), parts.value);

  // Into a block of a larger matrix, beside the input.
  matrix<float> wide(batch * length, 4 * heads * d);
  wide.leftCols(3 * side) = packed;
  const auto inside = attn::split_qkv(wide.leftCols(3 * side), heads, heads, batch);
  const auto result = attn::split_heads(wide.rightCols(side), heads, batch);
  attn::scaled_dot_product_attention_into(result, inside.query, inside.key, inside.value);
  check_same(result, expected);
  CHECK(wide.leftCols(3 * side) == packed);
}

TEST_CASE("parts of a batch and any number of threads have the same bits") {
  generator g(407);
  for (const index queries : {2, 70}) {
    const auto q = any_heads<float>(g, {4, 4, queries, 8}), k = any_heads<float>(g, {4, 2, 260, 8});
    const auto whole = attn::scaled_dot_product_attention(q, k, k);
    const auto part = attn::scaled_dot_product_attention(
        q.view().sequences(1, 2), k.view().sequences(1, 2), k.view().sequences(1, 2));
    check_same(part, whole.view().sequences(1, 2));
    check_same(attn::scaled_dot_product_attention(q, k, k, {.executor = attn::std_threads(3)}),
               whole);
  }
}

TEST_CASE("the plan of a call on heads") {
  generator g(410);
  const auto many = any_heads<float>(g, {2, 6, 100, 8}), few = any_heads<float>(g, {2, 36, 3, 8});
  const auto k = any_heads<float>(g, {2, 2, 2100, 8});
  const attn::plan forward = attn::plan_of(many, k, k);
  CHECK((forward.fused && !forward.splits_keys));
  CHECK(forward.tasks % 12 == 0);
  const attn::plan decode = attn::plan_of(few, k, k);
  CHECK(decode.splits_keys);
  CHECK(decode.tasks == 2 * 2 * 2 * 3);  // sequences, key heads, halves of their groups, chunks
  CHECK_FALSE(attn::plan_of(few, k, k, {.reproducible = true}).splits_keys);
  const auto d128 = any_heads<float>(g, {1, 64, 8, 128}),
             k128 = any_heads<float>(g, {1, 1, 200, 128});
  CHECK(attn::plan_of(d128, k128, k128).workspace_bytes <= 256 * 1024);
  const heads_array<Eigen::half> half({2, 3, 100, 8});
  CHECK_FALSE(attn::plan_of(half, half, half).fused);
  const heads_array<Eigen::half> three({3, 3, 100, 8});
  CHECK(missing([&] { attn::plan_of(half, three, three); }, {"key has 3 sequences"}) == "");
  const auto two = any_heads<float>(g, {2, 3, 2100, 8});
  CHECK(missing([&] { attn::plan_of(many, k, two); }, {"value has 3 heads, key has 2"}) == "");
}

// Each sequence's own reach counts, not the longest one's from where another begins.
TEST_CASE("a table of relative biases that is long enough for every sequence is accepted") {
  generator g(411);
  const auto q = any_heads<float>(g, {2, 2, 8, 4}), k = any_heads<float>(g, {2, 2, 100, 4});
  const std::vector<int> keys{1, 100};
  const Eigen::VectorXf table = Eigen::VectorXf::Zero(2 * 99 + 1);
  const attn::options options{.alignment = attn::bottom_right, .key_lengths = keys};
  CHECK_NOTHROW(attn::scaled_dot_product_attention(q, k, k, attn::none(),
                                                   attn::relative_bias(table), options));
}

TEST_CASE("an array that was moved from is empty, and can be used again") {
  generator g(412);
  const auto q = any_heads<float>(g, {1, 2, 3, 4});
  heads_array<float> out;
  std::vector<heads_array<float>> kept;
  for (int n = 0; n < 3; ++n) {
    attn::scaled_dot_product_attention_into(out, q, q, q);
    kept.push_back(std::move(out));
    CHECK(out.view().shape().size() == 0);  // NOLINT(bugprone-use-after-move): what is promised
  }
  check_same(kept[0], kept[2]);
  heads_array<float> small({1, 1, 1, 1});
  small = std::move(kept[0]);
  check_same(small, kept[1]);
  CHECK(kept[0].view().shape().size() == 0);  // NOLINT(bugprone-use-after-move): as above
  const heads_array<float> copy = small;
  check_same(copy, small);
}

TEST_CASE("an array of more elements than there are addresses for") {
  const index most = std::numeric_limits<index>::max();
  CHECK_THROWS_AS(heads_array<float>({1, 1, most / 2, 4}), std::length_error);
  CHECK_THROWS_AS(heads_array<float>({1, 1, most / 4 + 1, 1}), std::length_error);
}

TEST_CASE("nothing in, nothing out") {
  generator g(408);
  const auto none = any_heads<float>(g, {0, 4, 3, 6}), k = any_heads<float>(g, {1, 2, 5, 6});
  CHECK(attn::scaled_dot_product_attention(none, k, k).shape() == heads_shape{0, 4, 3, 6});
  const auto q = any_heads<float>(g, {2, 4, 3, 6}), no_keys = any_heads<float>(g, {2, 2, 0, 6});
  heads_array<float> lse;
  const auto out = attn::scaled_dot_product_attention(q, no_keys, no_keys, {.log_sum_exp = lse});
  CHECK(out.shape() == q.shape());
  CHECK((out.head(1, 3).array() == 0).all());
  CHECK(lse(1, 3, 2, 0) == -std::numeric_limits<float>::infinity());
  const auto no_heads = any_heads<float>(g, {1, 0, 3, 6}),
             none_of_keys = any_heads<float>(g, {1, 0, 200, 6});
  CHECK(attn::scaled_dot_product_attention(no_heads, none_of_keys, none_of_keys).shape() ==
        no_heads.shape());
  const auto no_queries = any_heads<float>(g, {2, 4, 0, 6});
  CHECK(attn::scaled_dot_product_attention(no_queries, k, k).shape() == no_queries.shape());
}

// Whatever has no elements has no memory: a sanitizer sees what is added to a null pointer.
TEST_CASE("heads without features of a padded batch") {
  generator g(409);
  const std::vector<int> lengths{1, 3};
  const auto no_width = any_heads<float>(g, {2, 2, 3, 0}), k = any_heads<float>(g, {2, 2, 3, 4});
  heads_array<float> lse;
  const attn::options options{.log_sum_exp = lse, .query_lengths = lengths};
  const auto mean = attn::scaled_dot_product_attention(no_width, no_width, k, options);
  CHECK(mean.head(0, 1)(0, 2) == Approx(k.head(0, 1).col(2).mean()));
  CHECK((mean.head(0, 1).bottomRows(2).array() == 0).all());
  CHECK(attn::scaled_dot_product_attention(k, k, no_width, options).shape() == no_width.shape());
  CHECK(std::isfinite(lse(0, 1, 0, 0)));
  CHECK(lse(0, 1, 1, 0) == -std::numeric_limits<float>::infinity());
  const Eigen::MatrixXf none(20, 0), value = Eigen::MatrixXf::Ones(20, 1);
  CHECK(attn::scaled_dot_product_attention(none, none, value).isApproxToConstant(1));
}

TEST_CASE("bad input is refused, and nothing is written") {
  generator g(409);
  const auto q = any_heads<float>(g, {2, 4, 3, 6}), k = any_heads<float>(g, {2, 2, 5, 6});
  const auto call = [&](const auto& query, const auto& key, const auto& value,
                        const attn::options& options = {}) {
    return [&, options] { attn::scaled_dot_product_attention(query, key, value, options); };
  };
  const auto shaped = [&](const heads_shape& n) { return any_heads<float>(g, n); };
  CHECK(missing(call(q, shaped({3, 2, 5, 6}), k), {"key has 3 sequences", "query has 2"}) == "");
  CHECK(missing(call(q, k, shaped({3, 2, 5, 6})), {"value has 3 sequences", "query has 2"}) == "");
  CHECK(missing(call(q, shaped({2, 3, 5, 6}), shaped({2, 3, 5, 6})),
                {"key has 3 heads", "divide the 4"}) == "");
  CHECK(missing(call(q, k, shaped({2, 1, 5, 6})), {"value has 1 heads", "key has 2"}) == "");
  CHECK(missing(call(q, k, shaped({2, 2, 4, 6})), {"value has 4 tokens", "key has 5"}) == "");
  const auto wide = shaped({2, 2, 5, 7});
  CHECK(missing(call(q, wide, k), {"key has width 7", "query has 6"}) == "");
  const std::vector<int> two{5, 6}, three{1, 2, 3}, negative{-1, 3};
  CHECK(missing(call(q, k, k, {.key_lengths = three}), {"key_lengths has 3", "2 sequences"}) == "");
  CHECK(missing(call(q, k, k, {.key_lengths = two}),
                {"key_lengths has length 6 for sequence 1", "between 0 and 5"}) == "");
  CHECK(missing(call(q, k, k, {.query_lengths = negative}), {"query_lengths has length -1"}) == "");
  const std::vector<float> logits{1, 2, 3};
  CHECK(missing(call(q, k, k, {.sink = logits}), {"sink has 3 logits", "4"}) == "");
  const auto causal = [&] { attn::scaled_dot_product_attention(q, k, k, attn::causal()); };
  CHECK(missing(causal, {"sequence 0 has 3 queries and 5 keys", "alignment"}) == "");
  const std::vector<int> padded_to_five{5, 4};
  const auto itself = [&] {
    attn::scaled_dot_product_attention(k, k, k, attn::causal(), {.key_lengths = padded_to_five});
  };
  CHECK(missing(itself, {"sequence 1 has 5 queries and 4 keys", "give options.query_lengths"}) ==
        "");
  const std::vector<int> of_queries{3, 1}, of_keys{5, 4};
  const auto with_lengths = [&](const auto& in_memory, const attn::options& lengths) {
    return [&, lengths] { attn::scaled_dot_product_attention(q, k, k, in_memory, lengths); };
  };
  const attn::options left_queries{.padding = attn::padding::left, .query_lengths = of_queries};
  const attn::options left_keys{.key_lengths = of_keys, .padding = attn::padding::left};
  const auto rows = shaped({1, 1, 3, 5}), row = shaped({2, 1, 1, 5});
  CHECK(missing(with_lengths(rows, left_queries), {"mask in memory, of shape 1 x 1 x 3 x 5",
                                                   "row a query", "padding is left"}) == "");
  CHECK(missing(with_lengths(row, left_keys), {"mask in memory, of shape 2 x 1 x 1 x 5",
                                               "column a key", "padding is left"}) == "");
  const auto seen = Eigen::Matrix<bool, 3, 5>::Constant(true).eval();
  const auto in_squares = attn::block_mask(seen, 3, 5);
  CHECK(missing(with_lengths(in_squares, left_keys), {"mask in memory, of shape 1 x 1 x 3 x 5"}) ==
        "");
  const attn::options no_lengths{.padding = attn::padding::left};
  CHECK(missing(call(q, k, k, no_lengths), {"padding is left", "neither", "query_lengths"}) == "");
  const auto one_number = shaped({2, 4, 1, 1});  // its shape is wrong whatever the padding is
  CHECK(missing(with_lengths(one_number, left_keys),
                {"mask has the shape 2 x 4 x 1 x 1", "2 x 4 x 3 x 5"}) == "");
  CHECK_NOTHROW(with_lengths(row, left_queries)());
  const auto mask = shaped({2, 3, 3, 5});
  const auto masked = [&] { attn::scaled_dot_product_attention(q, k, k, mask); };
  CHECK(missing(masked, {"mask has the shape 2 x 3 x 3 x 5", "2 x 4 x 3 x 5"}) == "");
  const std::vector<int> too_long{2, 6};
  const auto padded = [&] {
    attn::scaled_dot_product_attention(q, k, k, attn::key_padding(too_long));
  };
  CHECK(missing(padded, {"key_padding has length 6", "5 rows"}) == "");
  const std::vector<int> of_one_sequence{2};
  const auto tiles = attn::block_mask(attn::key_padding(of_one_sequence), 3, 5);
  const auto in_tiles = [&] { attn::scaled_dot_product_attention(q, k, k, tiles); };
  CHECK(missing(in_tiles, {"key_padding has 1 lengths", "2 sequences"}) == "");

  Eigen::VectorXf vector;
  CHECK(missing(call(q, k, k, {.log_sum_exp = vector}),
                {"log_sum_exp is a matrix", "2 x 4 x 3 x 1"}) == "");
  heads_array<double> doubles;
  CHECK(missing(call(q, k, k, {.log_sum_exp = doubles}), {"double", "float"}) == "");
  heads_array<float> out({2, 4, 3, 5});
  for (index i = 0; i < out.shape().size(); ++i) out.data()[i] = 7;
  const auto into = [&](const attn::output& to, const attn::options& options = {}) {
    return [&, options, to] { attn::scaled_dot_product_attention_into(to, q, k, k, options); };
  };
  CHECK(missing(into(out.view()), {"out has the shape 2 x 4 x 3 x 5", "2 x 4 x 3 x 6"}) == "");
  CHECK(missing(into({}), {"out is nothing"}) == "");
  auto aliased = q;
  const auto over = [&] { attn::scaled_dot_product_attention_into(aliased.view(), aliased, k, k); };
  CHECK(missing(over, {"out overlaps query"}) == "");
  heads_array<float> both(q.shape());
  CHECK(missing(into(both, {.log_sum_exp = both}), {"log_sum_exp overlaps out"}) == "");
  const heads_view<float> repeated(both.data(), q.shape(), {72, 0, 6, 1});
  CHECK(missing(into(repeated), {"out has strides", "overlap"}) == "");
  heads_array<float> weights({2, 4, 3, 5});
  const heads_view<const float> of_one(weights.data(), {1, 1, 3, 5}, weights.view().strides());
  const auto on_mask = [&] {
    attn::scaled_dot_product_attention(q, k, k, of_one, {.weights = weights});
  };
  CHECK(missing(on_mask, {"options.weights overlaps mask"}) == "");
  CHECK((out.head(1, 1).array() == 7).all());

  const matrix<float> m = matrix<float>::Ones(6, 8);
  CHECK(missing([&] { static_cast<void>(attn::split_heads(m, 3)); }, {"heads is 3", "8 columns"}) ==
        "");
  CHECK(missing([&] { static_cast<void>(attn::split_heads(m, 2, 4)); }, {"batch is 4", "6 rows"}) ==
        "");
  CHECK(missing([&] { heads_view<const float>(m.data(), {1, -1, 2, 2}, {}); },
                {"1 x -1 x 2 x 2"}) == "");
  CHECK(missing([&] { attn::bhld<const float>(nullptr, {1, 1, 2, 2}); }, {"data is null"}) == "");
  CHECK(missing([&] { static_cast<void>(q.view().tokens(2, 2)); }, {"tokens [2, 4)", "3"}) == "");
}

}  // namespace
}  // namespace attn_test
