// A batch of heads with everything that has a gradient, packed or not, and what plain loops make of
// it head by head.
#pragma once

#include "gradient/support.hpp"
#include "heads/support.hpp"

namespace attn_test {

using attn::heads_array;
using attn::heads_order;
using attn::heads_shape;

struct row_range {
  index batch, first, count;
};

template <class T>
struct training_batch {
  heads_array<T> q, k, v, out_gradient, log_sum_exp_gradient;
  std::vector<int> query_lengths = {}, key_lengths = {};  // empty: all are there
  std::vector<int> query_starts = {}, key_starts = {};    // empty: not packed
  attn::padding padding = attn::padding::right;           // where lengths are given
  std::vector<double> sinks = {};                         // none, one or one a head
  bool ends_meet = true;                                  // bottom_right, else top_left
  // Sets what a mask and a score change are to be for the head of the problem.
  std::function<void(gradient_problem<T>&)> rules = [](gradient_problem<T>&) {};
  index entries = 0;  // of a table

  bool is_packed() const { return !query_starts.empty(); }
  index batch() const {
    return is_packed() ? static_cast<index>(query_starts.size()) - 1 : q.shape().batch;
  }
  row_range queries(index b) const { return range(b, q, query_starts, query_lengths); }
  row_range keys(index b) const { return range(b, k, key_starts, key_lengths); }
  index key_head(index h) const { return h * k.shape().heads / q.shape().heads; }

  gradient_problem<T> head(index b, index h) const {
    const row_range i = queries(b), j = keys(b);
    const index n = key_head(h);
    gradient_problem<T> g;
    g.forward.q = q.head(i.batch, h).middleRows(i.first, i.count);
    g.forward.k = k.head(j.batch, n).middleRows(j.first, j.count);
    g.forward.v = v.head(j.batch, n).middleRows(j.first, j.count);
    g.out_gradient = out_gradient.head(i.batch, h).middleRows(i.first, i.count);
    g.log_sum_exp_gradient =
        log_sum_exp_gradient.head(i.batch, h).middleRows(i.first, i.count).col(0);
    g.forward.offset = ends_meet ? j.count - i.count : 0;
    g.forward.head = h;
    g.forward.batch = b;
    g.entries = entries;
    if (!sinks.empty()) {
      g.forward.sink = sinks.size() == 1 ? sinks[0] : sinks[static_cast<std::size_t>(h)];
    }
    rules(g);
    return g;
  }

  attn::options options(attn::options given = {}) const {
    given.alignment = ends_meet ? attn::bottom_right : attn::top_left;
    given.padding = padding;
    if (!key_lengths.empty()) given.key_lengths = key_lengths;
    if (!query_lengths.empty()) given.query_lengths = query_lengths;
    if (sinks.size() == 1) given.sink = sinks[0];
    if (sinks.size() > 1) given.sink = sinks;
    return given;
  }

 private:
  row_range range(index b, const heads_array<T>& of, const std::vector<int>& starts,
                  const std::vector<int>& lengths) const {
    const auto n = static_cast<std::size_t>(b);
    if (!starts.empty()) return {0, starts[n], starts[n + 1] - starts[n]};
    const index length = of.shape().length, count = lengths.empty() ? length : lengths[n];
    return {of.shape().batch == 1 ? 0 : b, padding == attn::padding::left ? length - count : 0,
            count};
  }
};

template <class T>
training_batch<T> any_batch(generator& g, const heads_shape& query, const heads_shape& key,
                            index value_width, heads_order order = heads_order::bhld) {
  heads_shape out = query, value = key, lse = query;
  out.width = value.width = value_width;
  lse.width = 1;
  return {any_heads<T>(g, query, order), any_heads<T>(g, key, order), any_heads<T>(g, value, order),
          any_heads<T>(g, out, order), any_heads<T>(g, lse, order)};
}

// Gradients of a batch. Those of slopes, tables and sinks: a row a head, or one for all.
template <class T>
struct batch_gradients {
  heads_array<T> query, key, value, bias;
  matrix<T> sink, slope, table;
};

template <class T>
heads_array<T> zeros(const heads_shape& shape) {
  heads_array<T> a(shape);
  std::fill_n(a.data(), shape.size(), T(0));
  return a;
}

// What should come out, and how far off it may be.
template <class T>
struct batch_expectation {
  using Wide = wide<T>;
  batch_gradients<Wide> exact;
  std::array<Wide, every_part.size()> allowed{};  // of the sum over all that a gradient serves

  batch_expectation(const training_batch<T>& of, const heads_shape& bias, index slopes,
                    index tables)
      : exact{zeros<Wide>(of.q.shape()),
              zeros<Wide>(of.k.shape()),
              zeros<Wide>(of.v.shape()),
              zeros<Wide>(bias),
              matrix<Wide>::Zero(std::max<index>(1, static_cast<index>(of.sinks.size())), 1),
              matrix<Wide>::Zero(slopes, 1),
              matrix<Wide>::Zero(tables, of.entries)} {
    for (index b = 0; b < of.batch(); ++b) {
      for (index h = 0; h < of.q.shape().heads; ++h) add(of, b, h);
    }
  }

  std::string against(const batch_gradients<T>& found) const {
    for (const std::string& text :
         {of_heads("query", exact.query, found.query, allowed[of_query]),
          of_heads("key", exact.key, found.key, allowed[of_key]),
          of_heads("value", exact.value, found.value, allowed[of_value]),
          of_heads("bias", exact.bias, found.bias, allowed[of_bias]),
          of_matrix("sink", exact.sink, found.sink, allowed[of_sink]),
          of_matrix("slope", exact.slope, found.slope, allowed[of_slope]),
          of_matrix("table", exact.table, found.table, allowed[of_table])}) {
      if (!text.empty()) return text;
    }
    return {};
  }

 private:
  void add(const training_batch<T>& of, index b, index h) {
    const gradient_problem<T> g = of.head(b, h);
    const gradient_expectation<T> one(g);
    const auto row = [&](const matrix<Wide>& sums) { return sums.rows() == 1 ? 0 : h; };
    const row_range i = of.queries(b), j = of.keys(b);
    const index n = of.key_head(h);
    exact.query.head(i.batch, h).middleRows(i.first, i.count) += one.of(of_query);
    exact.key.head(j.batch, n).middleRows(j.first, j.count) += one.of(of_key);
    exact.value.head(j.batch, n).middleRows(j.first, j.count) += one.of(of_value);
    exact.sink(row(exact.sink)) += one.of(of_sink)(0);
    if (exact.slope.size() > 0) exact.slope(row(exact.slope)) += one.of(of_slope)(0);
    if (exact.table.size() > 0) {
      exact.table.row(row(exact.table)) += one.of(of_table).col(0).transpose();
    }
    const heads_shape& to = exact.bias.shape();
    for (index r = 0; to.size() > 0 && r < i.count; ++r) {
      for (index c = 0; c < j.count; ++c) {
        exact.bias(to.batch == 1 ? 0 : b, to.heads == 1 ? 0 : h, to.length == 1 ? 0 : r, c) +=
            one.of(of_bias)(r, c);
      }
    }
    for (const part p : every_part) allowed[p] += one.allowed(p);
    if (to.length == 1) allowed[of_bias] += one.allowed(of_bias) * static_cast<Wide>(i.count);
  }

  static std::string of_matrix(const char* name, const matrix<Wide>& a, const matrix<T>& found,
                               Wide allowed) {
    if (found.size() == 0) return {};  // was not asked for
    return disagreement(name, a, matrix<Wide>(matrix<Wide>::Constant(a.rows(), a.cols(), allowed)),
                        found, false);
  }
  static std::string of_heads(const char* name, const heads_array<Wide>& a,
                              const heads_array<T>& found, Wide allowed) {
    if (a.shape() != found.shape()) return std::string(name) + " has another shape";
    for (index b = 0; b < a.shape().batch; ++b) {
      for (index h = 0; h < a.shape().heads; ++h) {
        const std::string text = of_matrix(name, a.head(b, h), found.head(b, h), allowed);
        if (!text.empty()) {
          return text + " in sequence " + std::to_string(b) + ", head " + std::to_string(h);
        }
      }
    }
    return {};
  }
};

// What is asked for beside query, key and value.
struct wanted {
  bool bias = false, slopes = false, table = false;
};

// Forward, then back.
template <class T, class M, class F>
batch_gradients<T> run_batch(const training_batch<T>& of, const M& mask, const F& score_mod,
                             const wanted& asked = {}, const attn::options& given = {}) {
  const attn::options options = of.options(given);
  attn::options with_sums = options;
  heads_array<T> lse;
  with_sums.log_sum_exp = lse;
  const heads_order order = of.q.order();
  batch_gradients<T> found;
  for (heads_array<T>* array : {&found.query, &found.key, &found.value}) array->resize({}, order);
  attn::gradients to{.key = found.key, .query = found.query, .value = found.value};
  if (asked.bias) to.bias = found.bias;
  if (asked.slopes) to.slopes = found.slope;
  if (asked.table) to.relative_bias = found.table;
  if (!of.sinks.empty()) to.sink = found.sink;
  const auto from = [&](const heads_array<T>& out) {
    return attn::forward_pass{.log_sum_exp = lse,
                              .log_sum_exp_gradient = of.log_sum_exp_gradient,
                              .out = out,
                              .out_gradient = of.out_gradient};
  };
  if (of.is_packed()) {
    const attn::packed_starts starts(of.query_starts, of.key_starts);
    const auto out = attn::packed_attention(of.q, of.k, of.v, starts, mask, score_mod, with_sums);
    attn::packed_attention_backward(to, from(out), of.q, of.k, of.v, starts, mask, score_mod,
                                    options);
  } else {
    const auto out =
        attn::scaled_dot_product_attention(of.q, of.k, of.v, mask, score_mod, with_sums);
    attn::scaled_dot_product_attention_backward(to, from(out), of.q, of.k, of.v, mask, score_mod,
                                                options);
  }
  return found;
}

}  // namespace attn_test
