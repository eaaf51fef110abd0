// Packed sequences: each as if it were alone, whatever lies before and after it.
#include <attn/heads_attention.hpp>
#include <attn/varlen.hpp>

#include "heads/support.hpp"

namespace attn_test {
namespace {

using attn::heads_array;

// Each sequence by the call on heads.
template <class T, class M, class F>
void check_packed(const heads_array<T>& q, const heads_array<T>& k, const heads_array<T>& v,
                  const std::vector<int>& queries, const std::vector<int>& keys, const M& mask,
                  const F& change, const attn::alignment& alignment) {
  heads_array<T> lse;
  const std::vector<float> sinks(static_cast<std::size_t>(q.shape().heads), 0.5f);
  const auto out =
      attn::packed_attention(q, k, v, {queries, keys}, mask, change,
                             {.alignment = alignment, .log_sum_exp = lse, .sink = sinks});
  REQUIRE(out.shape().length == q.shape().length);
  for (std::size_t n = 0; n + 1 < queries.size(); ++n) {
    CAPTURE(n, queries[n], queries[n + 1], keys[n], keys[n + 1]);
    const auto part = [](const heads_array<T>& of, int from, int to) {
      return of.view().tokens(from, to - from);
    };
    heads_array<T> alone_lse;
    const auto alone = attn::scaled_dot_product_attention(
        part(q, queries[n], queries[n + 1]), part(k, keys[n], keys[n + 1]),
        part(v, keys[n], keys[n + 1]), mask, change,
        {.alignment = alignment, .log_sum_exp = alone_lse, .sink = sinks});
    check_same(part(out, queries[n], queries[n + 1]), alone);
    check_same(part(lse, queries[n], queries[n + 1]), alone_lse);
  }
}

template <class T>
void check_all(generator& g, attn::heads_order order) {
  const std::vector<int> same{0, 5, 5, 65, 66, 200, 200};
  const std::vector<int> queries{0, 1, 1, 4, 60, 60, 61}, keys{0, 300, 310, 310, 450, 460, 1600};
  const auto q = any_heads<T>(g, {1, 4, 200, 6}, order), k = any_heads<T>(g, {1, 2, 200, 6}, order);
  check_packed(q, k, k, same, same, attn::none(), attn::identity(), {});
  check_packed(q, k, k, same, same, attn::causal(), attn::alibi(attn::alibi_slopes(4)), {});
  const auto few = any_heads<T>(g, {1, 4, 61, 6}, order);
  const auto many = any_heads<T>(g, {1, 1, 1600, 6}, order);
  const auto values = any_heads<T>(g, {1, 1, 1600, 9}, order);
  check_packed(few, many, values, queries, keys, attn::causal(), attn::identity(),
               attn::bottom_right);
  check_packed(few, many, values, queries, keys, attn::sliding_window(20, 3), attn::softcap(2),
               attn::bottom_right);
  check_packed(few, many, values, queries, keys, attn::none(), attn::identity(), {});
}

TEST_CASE("each packed sequence has the bits it has alone") {
  generator g(501);
  for (const auto order : {attn::heads_order::bhld, attn::heads_order::blhd}) {
    check_all<float>(g, order);
    check_all<double>(g, order);
  }
}

TEST_CASE("threads, and more sequences than a few") {
  generator g(502);
  std::vector<attn::index> starts{0};
  for (int n = 0; n < 50; ++n) starts.push_back(starts.back() + g.between(0, 12));
  const auto q = any_heads<float>(g, {1, 2, starts.back(), 8}, attn::heads_order::blhd);
  const auto out = attn::packed_attention(q, q, q, starts, attn::causal());
  const std::vector<int> narrow(starts.begin(), starts.end());
  check_same(
      attn::packed_attention(q, q, q, narrow, attn::causal(), {.executor = attn::std_threads(3)}),
      out);
  check_packed(q, q, q, narrow, narrow, attn::causal(), attn::identity(), {});
}

TEST_CASE("starts and sinks of any integers and numbers, or in braces") {
  generator g(505);
  const auto q = any_heads<float>(g, {1, 2, 30, 8});
  const std::vector<int> starts{0, 7, 20, 30};
  const std::vector<std::size_t> unsigned_starts{0, 7, 20, 30};
  const std::vector<float> logits{0.5F, -1};
  const attn::options sinks{.sink = logits}, one{.sink = 2};
  const auto out = attn::packed_attention(q, q, q, starts, sinks);
  check_same(attn::packed_attention(q, q, q, unsigned_starts, {.sink = {0.5, -1}}), out);
  check_same(attn::packed_attention(q, q, q, {0, 7, 20, 30}, sinks), out);
  check_same(attn::packed_attention(q, q, q, {{0, 7, 20, 30}, starts}, sinks), out);
  check_same(attn::packed_attention(q, q, q, starts, {.sink = {2}}),
             attn::packed_attention(q, q, q, starts, one));
}

TEST_CASE("what is awful in one sequence stays there") {
  generator g(503);
  auto q = any_heads<float>(g, {1, 2, 30, 8}), k = q, v = q;
  const std::vector<int> starts{0, 7, 20, 30};
  const auto sound = attn::packed_attention(q, k, v, starts);
  for (auto* array : {&q, &k, &v}) {
    for (index h = 0; h < 2; ++h) {
      array->head(0, h).middleRows(7, 13).setConstant(std::numeric_limits<float>::quiet_NaN());
    }
  }
  const auto bad = attn::packed_attention(q, k, v, starts);
  check_same(bad.view().tokens(0, 7), sound.view().tokens(0, 7));
  check_same(bad.view().tokens(20, 10), sound.view().tokens(20, 10));
  CHECK(bad.head(0, 1).middleRows(7, 13).array().isNaN().all());
}

TEST_CASE("bad starts are refused") {
  generator g(504);
  const auto q = any_heads<float>(g, {1, 2, 6, 4});
  using list = std::vector<int>;
  const auto call = [&](const list& queries, const list& keys, const attn::options& options = {}) {
    return
        [&, queries, keys, options] { attn::packed_attention(q, q, q, {queries, keys}, options); };
  };
  CHECK(missing(call({}, {0, 6}), {"starts.query is empty"}) == "");
  CHECK(missing(call({1, 6}, {0, 6}), {"starts.query begins with 1"}) == "");
  CHECK(missing(call({0, 6}, {0, 4, 3, 6}), {"starts.key decreases from 4 to 3"}) == "");
  CHECK(missing(call({0, 5}, {0, 6}), {"starts.query ends with 5", "6 tokens"}) == "");
  CHECK(missing(call({0, 2, 6}, {0, 6}), {"starts.key has 2 numbers, starts.query has 3"}) == "");
  const list lengths{3};
  CHECK(missing(call({0, 6}, {0, 6}, {.key_lengths = lengths}), {"key_lengths", "packed"}) == "");
  CHECK(missing(call({0, 6}, {0, 6}, {.padding = attn::padding::left}), {"padding", "packed"}) ==
        "");
  heads_array<float> weights;
  CHECK(missing(call({0, 6}, {0, 6}, {.weights = weights}), {"weights", "packed"}) == "");
  const auto two = any_heads<float>(g, {2, 2, 6, 4});
  const list all{0, 6};
  CHECK(missing([&] { attn::packed_attention(two, q, q, all); }, {"query has 2 sequences"}) == "");
  const auto crossed = [&] {
    attn::packed_attention(q, q, q, {list{0, 2, 6}, list{0, 3, 6}}, attn::causal());
  };
  CHECK(missing(crossed, {"sequence 0 has 2 queries and 3 keys", "alignment"}) == "");
}

}  // namespace
}  // namespace attn_test
