// Masks: each against its own definition, `& | ~` against the truth table, cover() against
// visible().
#include <attn/mask.hpp>

#include "support/catch.hpp"
#include "support/generate.hpp"

namespace attn_test {
namespace {

attn::position position_of(index row, index offset, index key, index head = 0, index batch = 0) {
  const auto narrow = [](index x) { return static_cast<std::int32_t>(x); };
  return {.batch = narrow(batch),
          .head = narrow(head),
          .row = narrow(row),
          .query = narrow(row + offset),
          .key = narrow(key)};
}

// The first pair on which a mask and its meaning differ.
std::string disagreement(const mask_case& c, index queries, index keys, index offset) {
  for (index i = 0; i < queries; ++i) {
    for (index j = 0; j < keys; ++j) {
      const bool found = c.mask.visible(position_of(i, offset, j));
      if (found == c.visible(place{i, i + offset, j})) continue;
      return c.name + " at row " + std::to_string(i) + ", offset " + std::to_string(offset) +
             ", key " + std::to_string(j) + (found ? " is visible" : " is hidden");
    }
  }
  return {};
}

// A tile on which cover() promises what visible() does not keep or, for an exact cover, says less
// than it could.
std::string broken_cover(const mask_case& c, const attn::tile& t) {
  bool none = true, all = true;
  for (index i = 0; i < t.rows; ++i) {
    for (index j = 0; j < t.keys; ++j) {
      const bool seen = c.visible(place{t.row + i, t.query + i, t.key + j});
      none = none && !seen;
      all = all && seen;
    }
  }
  const attn::coverage cover = c.mask.cover(t);
  const bool broken = (cover == attn::coverage::none && !none) ||
                      (cover == attn::coverage::all && !all) ||
                      (c.exact_cover && cover == attn::coverage::some && (none || all));
  if (!broken) return {};
  std::ostringstream text;
  text << c.name << " covers " << t.rows << " rows from " << t.row << " (position " << t.query
       << ") and " << t.keys << " keys from " << t.key << " as " << static_cast<int>(cover)
       << " (none, some, all); none visible: " << none << ", all visible: " << all;
  return text.str();
}

attn::tile any_tile(generator& g, index queries, index keys, index offset) {
  const index row = g.between(0, queries - 1), key = g.between(0, keys - 1);
  const auto narrow = [](index x) { return static_cast<std::int32_t>(x); };
  return {.row = narrow(row),
          .query = narrow(row + offset),
          .key = narrow(key),
          .rows = narrow(g.between(1, queries - row)),
          .keys = narrow(g.between(1, keys - key))};
}

// Offsets that put the queries before, onto and behind the keys.
std::vector<index> offsets(generator& g, index queries, index keys) {
  return {0, keys - queries, g.between(-queries, keys), -queries - 3, keys + 3, -100000, 100000};
}

TEST_CASE("every mask is what its definition says") {
  generator g(1);
  for (int repeat = 0; repeat < 60; ++repeat) {
    const index queries = g.between(1, 24), keys = g.between(1, 24);
    for (const mask_case& c : every_mask(g, queries, keys)) {
      for (const index offset : offsets(g, queries, keys)) {
        CHECK(disagreement(c, queries, keys, offset) == "");
      }
    }
  }
}

TEST_CASE("a composition of masks is its truth table") {
  generator g(2);
  for (int repeat = 0; repeat < 20; ++repeat) {
    const index queries = g.between(1, 12), keys = g.between(1, 12);
    const std::vector<mask_case> cases = every_mask(g, queries, keys);
    const index offset = g.one_of(offsets(g, queries, keys));
    for (const mask_case& a : cases) {
      CHECK(disagreement(negation(a), queries, keys, offset) == "");
      for (const mask_case& b : cases) {
        CHECK(disagreement(conjunction(a, b), queries, keys, offset) == "");
        CHECK(disagreement(disjunction(a, b), queries, keys, offset) == "");
      }
    }
    for (int n = 0; n < 50; ++n) {
      CHECK(disagreement(any_composition(g, cases, 3), queries, keys, offset) == "");
    }
  }
}

TEST_CASE("cover is a bound of visible") {
  generator g(3);
  for (int repeat = 0; repeat < 60; ++repeat) {
    const index queries = g.between(1, 30), keys = g.between(1, 30);
    std::vector<mask_case> cases = every_mask(g, queries, keys);
    const std::size_t kinds = cases.size();
    for (std::size_t n = 0; n < kinds; ++n) cases.push_back(negation(cases[n]));
    for (int n = 0; n < 40; ++n) cases.push_back(any_composition(g, cases, 2));
    for (const index offset : offsets(g, queries, keys)) {
      for (const mask_case& c : cases) {
        for (int n = 0; n < 4; ++n) {
          CHECK(broken_cover(c, any_tile(g, queries, keys, offset)) == "");
        }
      }
    }
  }
}

TEST_CASE("cover composes, so that a loop can skip what a part of the mask rules out") {
  const attn::tile above{.row = 0, .query = 0, .key = 8, .rows = 4, .keys = 4};
  const attn::tile below{.row = 8, .query = 8, .key = 0, .rows = 4, .keys = 4};
  const any_mask causal = attn::causal(), lambda = attn::predicate([](int, int) { return true; });
  CHECK((causal & lambda).cover(above) == attn::coverage::none);
  CHECK((lambda & causal).cover(above) == attn::coverage::none);
  CHECK((causal | lambda).cover(below) == attn::coverage::all);
  CHECK((lambda | causal).cover(below) == attn::coverage::all);
  CHECK((~causal).cover(above) == attn::coverage::all);
  CHECK((~causal).cover(below) == attn::coverage::none);
  CHECK((causal & ~causal).cover(above) == attn::coverage::none);
  CHECK((causal & attn::none()).cover(below) == attn::coverage::all);
  CHECK((causal | ~any_mask(attn::none())).cover(above) == attn::coverage::none);
}

TEST_CASE("positions at the ends of 32 bits don't overflow") {
  const auto most = std::numeric_limits<std::int32_t>::max();
  for (const std::int32_t query : {most - 8, -most + 8}) {
    const attn::position at{.query = query, .key = 3};
    const attn::tile t{.query = query, .key = 0, .rows = 8, .keys = 8};
    const bool after = query > 0;
    CHECK(attn::causal().visible(at) == after);
    CHECK(attn::causal().cover(t) == (after ? attn::coverage::all : attn::coverage::none));
    CHECK(attn::sliding_window(most, 5).visible(at) == (query > 0));
    CHECK(attn::sliding_window(5, most).visible(at) == (query < 0));
    CHECK(attn::sliding_window(std::numeric_limits<attn::index>::max()).visible(at));
    CHECK(attn::sliding_window(std::numeric_limits<attn::index>::max()).cover(t) ==
          attn::coverage::all);
    CHECK(attn::documents(std::vector<int>{0, 0, 0, 0}).cover(t) == attn::coverage::none);
    CHECK(attn::prefix(4).visible(at));
    CHECK(!attn::documents(std::vector<int>{0, 0, 0, 0}).visible(at));
  }
}

TEST_CASE("masks of different types compose as they are written") {
  const boolean_matrix matrix =
      (boolean_matrix(2, 3) << true, false, true, true, true, false).finished();
  const Eigen::MatrixXf bias =
      (Eigen::MatrixXf(2, 3) << 1, 2, -std::numeric_limits<float>::infinity(), 4, 5, 6).finished();
  const auto odd = [](attn::index p, attn::index j) { return (p + j) % 2 == 1; };
  const auto table = [](const attn::Mask auto& mask) {
    std::string text;
    for (index i = 0; i < 2; ++i) {
      for (index j = 0; j < 3; ++j) text += mask.visible(position_of(i, 0, j)) ? '1' : '0';
    }
    return text;
  };
  CHECK(table(attn::causal() & matrix) == "100110");
  CHECK(table(matrix & attn::causal()) == "100110");
  CHECK(table(attn::causal() | matrix) == "101110");
  CHECK(table(matrix | attn::causal()) == "101110");
  CHECK(table(attn::causal() & odd) == "000100");
  CHECK(table(odd & attn::causal()) == "000100");
  CHECK(table(odd | attn::causal()) == "110111");
  CHECK(table(~attn::as_mask(matrix)) == "010001");
  CHECK(table(~attn::predicate(odd)) == "101010");
  CHECK(table((bias.array() < 4.5f) & attn::none()) == "111100");
  CHECK(table(attn::none() & (bias.array() < 4.5f)) == "111100");
  CHECK(table(matrix.row(0) & attn::none()) == "101101");
  CHECK(table(attn::causal() & matrix & bias) == "100110");
  CHECK(table(bias & attn::causal()) == "100110");
  CHECK(table(~attn::causal() | attn::sliding_window(1, attn::unbounded)) == "111111");
  CHECK(table(attn::as_mask(attn::causal())) == "100110");
}

TEST_CASE("additive masks: -inf hides, every other number is added") {
  const float lowest = std::numeric_limits<float>::lowest();
  const float infinity = std::numeric_limits<float>::infinity();
  const Eigen::MatrixXf bias =
      (Eigen::MatrixXf(2, 3) << 0, lowest, -infinity, infinity, NAN, -1e9f).finished();
  const Eigen::MatrixXf row = (Eigen::MatrixXf(1, 3) << 10, 20, 30).finished();
  const auto mask = attn::as_mask(bias);
  for (index i = 0; i < 2; ++i) {
    for (index j = 0; j < 3; ++j) {
      const attn::position at = position_of(i, 40, j);  // matrices go by row, not by position
      CHECK(mask.visible(at) == (bias(i, j) != -infinity));
      if (i != 0 || j == 0) continue;
      CHECK((mask & attn::as_mask(row)).bias(at) == bias(i, j) + row(0, j));
      CHECK((attn::causal() & row).bias(at) == row(0, j));
      CHECK((row & attn::causal() & row).bias(at) == 2 * row(0, j));
    }
  }
  CHECK(attn::AdditiveMask<decltype(mask)>);
  CHECK(attn::AdditiveMask<decltype(attn::causal() & row)>);
  CHECK(!attn::AdditiveMask<decltype(attn::causal() & attn::none())>);
}

TEST_CASE("a mask refers to a matrix that has a name, and keeps one that has none") {
  boolean_matrix named = boolean_matrix::Constant(2, 2, true);
  const auto refers = attn::as_mask(named);
  const auto refers_within = attn::none() & named;
  const auto block = attn::as_mask(named.block(0, 1, 2, 1));
  const auto keeps = attn::as_mask(boolean_matrix(named));
  const auto keeps_expression = attn::as_mask(named.array() && named.array());
  const auto keeps_within = attn::none() & boolean_matrix(named);
  named(0, 1) = false;
  const attn::position at = position_of(0, 0, 1);
  CHECK(!refers.visible(at));
  CHECK(!refers_within.visible(at));
  CHECK(!block.visible(position_of(0, 0, 0)));
  CHECK(keeps.visible(at));
  CHECK(keeps_expression.visible(at));
  CHECK(keeps_within.visible(at));
}

TEST_CASE("a mask says whether it depends on positions") {
  const boolean_matrix matrix = boolean_matrix::Constant(1, 1, true);
  const auto positional = [](const auto& mask) {
    return attn::positional_mask<std::remove_cvref_t<decltype(mask)>>;
  };
  CHECK(positional(attn::causal()));
  CHECK(positional(attn::sliding_window(1)));
  CHECK(positional(attn::prefix(1)));
  CHECK(positional(attn::documents(std::vector<int>{1})));
  CHECK(positional(attn::as_mask([](attn::index, attn::index) { return true; })));
  CHECK(positional(attn::as_mask([](attn::position) { return true; })));
  CHECK(!positional(attn::none()));
  CHECK(!positional(attn::key_padding(1)));
  CHECK(!positional(attn::as_mask(matrix)));
  CHECK(!positional(attn::as_mask(Eigen::MatrixXf(1, 1))));
  CHECK(positional(matrix & attn::causal()));
  CHECK(positional(~(attn::causal() | attn::none())));
  CHECK(!positional(~(attn::as_mask(matrix) | attn::none())));
  CHECK(!positional(attn::key_padding(1) & Eigen::MatrixXf(1, 1)));
}

}  // namespace
}  // namespace attn_test
