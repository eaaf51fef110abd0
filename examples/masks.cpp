// What each mask lets through, as a picture: rows are queries, columns are keys, # is seen.
#include <attn/attn.hpp>
#include <cmath>
#include <iomanip>
#include <iostream>
#include <string>
#include <vector>

namespace {

constexpr attn::index length = 8;

struct picture {
  std::string title;
  std::vector<std::string> rows;
};

// A mask sets the scores of hidden keys to -inf. It may be anything that the call takes as one.
template <class M>
picture draw(const std::string& title, const M& mask) {
  const Eigen::MatrixXf scores = attn::apply_mask(Eigen::MatrixXf::Zero(length, length), mask);
  picture result{title, {}};
  for (const auto& row : scores.rowwise()) {
    std::string& line = result.rows.emplace_back();
    for (const float score : row) line += std::isinf(score) ? " ." : " #";
  }
  return result;
}

void print(const std::vector<picture>& side_by_side) {
  const auto cell = [](const std::string& text) {
    std::cout << std::left << std::setw(26) << text;
  };
  for (const picture& each : side_by_side) cell(each.title);
  for (std::size_t i = 0; i < length; ++i) {
    std::cout << "\n";
    for (const picture& each : side_by_side) cell(each.rows[i]);
  }
  std::cout << "\n\n";
}

}  // namespace

int main() {
  const attn::documents documents(std::vector{0, 0, 0, 1, 1, 2, 2, 2});
  Eigen::RowVectorX<bool> visible(length);  // one row of a boolean matrix serves all queries
  visible << true, true, false, true, true, true, false, true;
  const auto even = [](int query, int key) { return (query - key) % 2 == 0; };
  const attn::causal causal;

  print(
      {draw("none()", attn::none()), draw("causal()", causal), draw("prefix(3)", attn::prefix(3))});
  print({draw("sliding_window(1)", attn::sliding_window(1)),
         draw("sliding_window(2, 0)", attn::sliding_window(2, 0)),
         draw("key_padding(5)", attn::key_padding(5))});
  print({draw("documents(ids)", documents), draw("a matrix of bool", visible),
         draw("a function", even)});
  print({draw("causal() & documents(ids)", causal & documents),
         draw("causal() & matrix", causal & visible), draw("causal() & function", causal & even)});
  print({draw("~causal()", ~causal), draw("~documents(ids)", ~documents),
         draw("window(1) | padding(2)", attn::sliding_window(1) | attn::key_padding(2))});
}
