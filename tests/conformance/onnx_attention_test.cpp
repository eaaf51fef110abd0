// What the stored cases of the ONNX operator Attention leave open, against plain loops: pasts with
// fewer key heads, masks of every rank, width and type, windows beside caches, all four score
// outputs; and what is refused.

#include "conformance/onnx_question.hpp"

namespace attn_test {
namespace {

// Empty if the call is refused with each of the words.
template <class T = float>
std::string refused(const setting& s, const std::vector<std::string>& words,
                    const attn::onnx_attention_attributes& attributes = {}) {
  generator g(1);
  const question<T> x(g, s);
  return missing([&] { attn::onnx_attention(x.q, x.k, x.v, attributes, x.inputs()); }, words);
}

}  // namespace

TEST_CASE("the new keys of a causal call with fewer key heads stand after the past") {
  setting s{.order = heads_order::blhd, .kind = cache::past, .past = 4};
  s.attributes = {.is_causal = true};
  check_setting<float>(1, s);
  check_setting<double>(1, s);
  s.queries = s.keys = 1;
  check_setting<float>(2, s);
}

TEST_CASE("a short mask hides the keys that it lacks, whatever its type") {
  for (const mask_type type : {mask_type::booleans, mask_type::floats, mask_type::ints}) {
    for (const index width : {1, 4}) {
      check_setting<float>(3, {.mask = type, .mask_shape = {5, width}});
      check_setting<double>(3, {.mask = type, .mask_shape = {4, 1, width}});
      check_setting<float>(3,
                           {.kind = cache::past, .past = 3, .mask = type, .mask_shape = {width}});
      setting padded{.kind = cache::nonpad, .mask = type, .mask_shape = {2, 1, 5, width}};
      padded.attributes = {.is_causal = true};
      check_setting<float>(4, padded);
    }
  }
}

TEST_CASE("a mask of rank 3 begins with the heads, also where there are as many sequences") {
  check_setting<float>(
      5, {.batch = 4, .heads = 4, .mask = mask_type::booleans, .mask_shape = {4, 5, 7}});
  check_setting<double>(
      6, {.batch = 4, .heads = 4, .mask = mask_type::doubles, .mask_shape = {4, 1, 7}});
}

TEST_CASE("a window that looks ahead, beside a cache") {
  setting s{.kind = cache::past, .past = 6};
  s.attributes = {.left_window_size = 3, .right_window_size = 2};
  check_setting<float>(7, s);
  s.kind = cache::nonpad;
  s.past = 0;
  check_setting<float>(8, s);
  s.attributes.is_causal = true;
  check_setting<float>(9, s);
}

TEST_CASE("everything at once, in float") {
  generator g(10);
  for (int n = 0; n < 300; ++n) check_question(question<float>(g, any_setting(g)));
}
TEST_CASE("everything at once, in double") {
  generator g(11);
  for (int n = 0; n < 150; ++n) check_question(question<double>(g, any_setting(g)));
}
TEST_CASE("everything at once, in 16 bits") {
  generator g(12);
  for (int n = 0; n < 100; ++n) {
    check_question(question<Eigen::half>(g, any_setting(g)));
    check_question(question<Eigen::bfloat16>(g, any_setting(g)));
  }
}

TEST_CASE("tensors of rank 3 and 4 hold the same heads") {
  generator g(13);
  const index batch = 2, heads = 3, length = 4, d = 5;
  const auto interleaved = any_heads<float>(g, {batch, heads, length, d}, heads_order::blhd);
  heads_array<float> apart({batch, heads, length, d});
  for (index b = 0; b < batch; ++b) {
    for (index h = 0; h < heads; ++h) apart.head(b, h) = interleaved.head(b, h);
  }
  const std::vector<std::int64_t> rank3{batch, length, heads * d}, rank4{batch, heads, length, d};
  const auto x = attn::onnx_heads(interleaved.data(), rank3, heads);
  const auto y = attn::onnx_heads(apart.data(), rank4);
  const auto from_rank3 = attn::onnx_attention(x, x, x).y,
             from_rank4 = attn::onnx_attention(y, y, y).y;
  check_same(from_rank3, from_rank4);
  CHECK(from_rank3.order() == heads_order::blhd);
  CHECK(from_rank4.order() == heads_order::bhld);
  check_same(from_rank4,
             attn::onnx_attention(attn::onnx_heads(apart.data(), rank4, heads), y, y).y);
}

TEST_CASE("an empty past asks for the presents") {
  generator g(14);
  const auto x = any_heads<float>(g, {2, 3, 4, 5}, heads_order::blhd);
  const heads_view<const float> nothing(nullptr, {2, 3, 0, 5}, {});
  const auto first = attn::onnx_attention(x, x, x, {.is_causal = true},
                                          {.past_key = nothing, .past_value = nothing});
  check_same(first.present_key, x);
  check_same(first.present_value, x);
  check_same(first.y, attn::onnx_attention(x, x, x, {.is_causal = true}).y);
}

TEST_CASE("nothing of a key beyond its sequence's length reaches the result") {
  generator g(15);
  setting s{.kind = cache::nonpad, .mask = mask_type::floats, .mask_shape = {4, 5, 7}};
  question<float> x(g, s);
  x.lengths = {4, 0};
  const auto expected =
      attn::onnx_attention(x.q, x.k, x.v, {.qk_matmul_output_mode = 2}, x.inputs());
  for (index b = 0; b < s.batch; ++b) {
    for (index h = 0; h < s.key_heads; ++h) {
      x.k.head(b, h).bottomRows(s.keys - x.length(b)).setConstant(std::nanf(""));
      x.v.head(b, h).bottomRows(s.keys - x.length(b)).setConstant(std::nanf(""));
    }
  }
  const auto found = attn::onnx_attention(x.q, x.k, x.v, {.qk_matmul_output_mode = 2}, x.inputs());
  check_same(found.y, expected.y);
  check_same(found.qk_matmul_output, expected.qk_matmul_output);
  CHECK((found.y.head(1, 0).array() == 0).all());
}

TEST_CASE("a finite number of a mask hides nothing") {
  generator g(16);
  const auto x = any_heads<float>(g, {1, 2, 3, 4});
  heads_array<double> lowest({1, 1, 1, 3});
  lowest.head(0, 0).setConstant(-1e300);  // beyond float
  const auto found = attn::onnx_attention(x, x, x, {}, {.attn_mask = lowest.view()});
  for (index h = 0; h < 2; ++h) {
    CHECK((found.y.head(0, h).array() != 0).all());
  }
}

TEST_CASE("masks and pasts have any strides, converted or not") {
  generator g(17);
  const auto x = any_heads<float>(g, {1, 2, 3, 4}), past = any_heads<float>(g, {1, 2, 4, 3});
  const auto doubles = any_heads<double>(g, {1, 2, 3, 3});
  heads_array<float> floats({1, 2, 3, 3}), turned_past({1, 2, 3, 4});
  const auto transposed = [](const auto& of) {
    const heads_shape& n = of.shape();
    using element = std::remove_reference_t<decltype(*of.data())>;
    return heads_view<element>(of.data(), {n.batch, n.heads, n.width, n.length},
                               {n.heads * n.length * n.width, n.length * n.width, 1, n.width});
  };
  for (index h = 0; h < 2; ++h) {
    floats.head(0, h) = doubles.head(0, h).cast<float>();
    turned_past.head(0, h) = past.head(0, h).transpose();
  }
  const auto y_with = [&](const attn::onnx_attention_mask& mask) {
    return attn::onnx_attention(x, x, x, {}, {.attn_mask = mask}).y;
  };
  const auto expected = y_with(transposed(std::as_const(floats)));
  for (index h = 0; h < 2; ++h) {
    const auto of_head = x.head(0, h);
    const matrix<float> bias = floats.head(0, h).transpose();
    CHECK(same_bits(expected.head(0, h),
                    attn::scaled_dot_product_attention(of_head, of_head, of_head, bias)));
  }
  check_same(y_with(transposed(doubles)), expected);

  const auto after = [&](const heads_view<const float>& before) {
    return attn::onnx_attention(x, x, x, {}, {.past_key = before, .past_value = before});
  };
  const auto found = after(transposed(past)), straight = after(std::as_const(turned_past).view());
  check_same(found.present_key, straight.present_key);
  check_same(found.present_value, straight.present_value);
  check_same(found.y, straight.y);
}

TEST_CASE("an executor runs the call and changes nothing") {
  generator g(18);
  const auto x = any_heads<float>(g, {2, 6, 70, 8});
  index calls = 0;
  const auto counting = [&](index n, attn::task each) {
    ++calls;
    attn::std_threads(3)(n, each);
  };
  for (int mode = 0; mode <= 3; ++mode) {
    const attn::onnx_attention_attributes a{.is_causal = true, .qk_matmul_output_mode = mode};
    const auto alone = attn::onnx_attention(x, x, x, a);
    calls = 0;
    const auto shared = attn::onnx_attention(x, x, x, a, {}, counting);
    CHECK(calls == (mode == 3 ? 1 : 2));  // once for the rows, once for scores beside them
    check_same(alone.y, shared.y);
    check_same(alone.qk_matmul_output, shared.qk_matmul_output);
  }
}

TEST_CASE("tensors that hold no heads are refused") {
  const std::vector<float> x(24);
  const auto heads = [&](const std::vector<std::int64_t>& shape, std::optional<index> n) {
    return [&x, shape, n] { attn::onnx_heads(x.data(), shape, n); };
  };
  CHECK(missing(heads({4, 6}, 2), {"shape has rank 2", "3 or 4"}) == "");
  CHECK(missing(heads({1, 4, 6}, std::nullopt), {"num_heads is left out", "rank 3"}) == "");
  CHECK(missing(heads({1, 4, 6}, 4), {"num_heads is 4", "divide", "6"}) == "");
  CHECK(missing(heads({1, 4, 6}, 0), {"num_heads is 0", "at least 1"}) == "");
  CHECK(missing(heads({1, 2, 3, 4}, 3), {"num_heads is 3", "2 heads", "left out"}) == "");
  const auto mask = [&](const std::vector<index>& shape) {
    return [&x, shape] { attn::onnx_mask(x.data(), shape); };
  };
  CHECK(missing(mask({}), {"mask", "rank 0", "1 to 4"}) == "");
  CHECK(missing(mask({1, 1, 2, 3, 4}), {"mask", "rank 5"}) == "");
}

TEST_CASE("attributes out of range are refused") {
  CHECK(refused({}, {"left_window_size is -2", "-1 for unbounded"}, {.left_window_size = -2}) ==
        "");
  CHECK(refused({}, {"right_window_size is -7"}, {.right_window_size = -7}) == "");
  CHECK(refused({}, {"right_window_size is -7"}, {.is_causal = true, .right_window_size = -7}) ==
        "");
  CHECK(refused({}, {"qk_matmul_output_mode is 4", "0 to 3"}, {.qk_matmul_output_mode = 4}) == "");
  CHECK(refused({}, {"qk_matmul_output_mode is -1"}, {.qk_matmul_output_mode = -1}) == "");
  CHECK(refused({}, {"scale is inf", "finite"}, {.scale = infinity}) == "");
  CHECK(refused({}, {"softcap is -1", "0 for none"}, {.softcap = -1}) == "");
  CHECK(refused({}, {"softcap is nan"}, {.softcap = std::nan("")}) == "");
  CHECK(refused({}, {"softmax_precision is 7", "10 (float16)"}, {.softmax_precision = 7}) == "");
  CHECK(refused({}, {"softmax_precision is 11", "cast them"}, {.softmax_precision = 11}) == "");
  for (const int type : {1, 10, 11, 16}) {
    CHECK(refused<double>({}, {}, {.softmax_precision = type}) == "accepted");
  }
}

TEST_CASE("inputs that do not fit are refused") {
  generator g(19);
  const auto q = any_heads<float>(g, {2, 4, 3, 6}), k = any_heads<float>(g, {2, 2, 5, 6});
  const auto with = [&](const heads_array<float>& key, const heads_array<float>& value,
                        const std::vector<std::string>& words) {
    return missing([&] { attn::onnx_attention(q, key, value); }, words);
  };
  const auto other = [&](const heads_shape& shape) { return heads_array<float>(shape); };
  CHECK(with(other({1, 2, 5, 6}), k, {"key has 1 sequences, query has 2"}) == "");
  CHECK(with(k, other({1, 2, 5, 6}), {"value has 1 sequences, query has 2"}) == "");
  CHECK(with(other({2, 3, 5, 6}), other({2, 3, 5, 6}), {"key has 3 heads", "divide the 4"}) == "");
  CHECK(with(other({2, 0, 5, 6}), other({2, 0, 5, 6}), {"key has 0 heads", "at least 1"}) == "");
  CHECK(with(k, other({2, 4, 5, 6}), {"value has 4 heads, key has 2"}) == "");
  CHECK(with(k, other({2, 2, 4, 6}), {"value has 4 tokens, key has 5"}) == "");
  CHECK(with(other({2, 2, 5, 7}), k, {"key has width 7, query has 6"}) == "");
}

TEST_CASE("optional inputs that do not fit are refused") {
  generator g(20);
  const auto q = any_heads<float>(g, {2, 4, 3, 6}), k = any_heads<float>(g, {2, 2, 5, 6});
  const heads_array<float> past({2, 2, 3, 6});
  const auto given = [&](const attn::onnx_attention_inputs<float>& inputs,
                         const std::vector<std::string>& words) {
    return missing([&] { attn::onnx_attention(q, k, k, {}, inputs); }, words);
  };
  const std::vector<std::int64_t> lengths{5, 6}, one{5}, negative{-1, 5};
  CHECK(given({.past_key = past.view()}, {"past_value is left out"}) == "");
  CHECK(given({.past_value = past.view()}, {"past_key is left out"}) == "");
  const auto mixed = [&](const heads_shape& a, const heads_shape& b,
                         const std::vector<std::string>& words) {
    const heads_array<float> x(a), y(b);
    return given({.past_key = x.view(), .past_value = y.view()}, words);
  };
  CHECK(mixed({2, 4, 3, 6}, {2, 2, 3, 6}, {"past_key has the shape 2 x 4 x 3 x 6", "2 x 2"}) == "");
  CHECK(mixed({2, 2, 3, 6}, {2, 2, 4, 6}, {"past_value has the shape 2 x 2 x 4", "x 3 x 6"}) == "");
  CHECK(mixed({2, 2, 3, 6}, {1, 2, 3, 6}, {"past_value has the shape 1 x 2"}) == "");
  CHECK(given({.nonpad_kv_seqlen = one}, {"nonpad_kv_seqlen has 1 lengths", "2 sequences"}) == "");
  CHECK(given({.nonpad_kv_seqlen = lengths}, {"nonpad_kv_seqlen has length 6", "0 and 5"}) == "");
  CHECK(given({.nonpad_kv_seqlen = negative}, {"nonpad_kv_seqlen has length -1"}) == "");
  const std::vector<std::int64_t> full{5, 5};
  CHECK(given({.nonpad_kv_seqlen = full, .past_key = past.view(), .past_value = past.view()},
              {"nonpad_kv_seqlen is given together with a past"}) == "");

  for (const heads_shape& shape :
       {heads_shape{3, 1, 1, 5}, {1, 3, 1, 5}, {1, 1, 2, 5}, {1, 1, 3, 6}}) {
    const heads_array<bool> mask(shape);
    CHECK(given({.attn_mask = mask.view()},
                {"attn_mask has the shape " + to_text(shape), "2 x 4 x 3 x 5"}) == "");
  }
}

}  // namespace attn_test
