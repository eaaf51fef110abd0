// A mask of one's own: a type that says what is visible, and bounds it over whole tiles, so that
// attention can skip them. A lambda says the first only; the result is the same.
#include <attn/attn.hpp>
#include <iostream>

namespace {

// The text is cut into chunks of 2^bits tokens. A query sees what is not after it in its own chunk,
// and the whole chunk before.
struct two_chunks {
  int bits;

  bool visible(attn::position at) const {
    return at.key <= at.query && (at.query >> bits) - (at.key >> bits) <= 1;
  }

  // In a tile, query and key are from `least` to `most` chunks apart.
  attn::coverage cover(attn::tile t) const {
    const int least = (t.query >> bits) - (t.last_key() >> bits);
    const int most = (t.last_query() >> bits) - (t.key >> bits);
    if (t.key > t.last_query() || least > 1) return attn::coverage::none;
    return t.last_key() <= t.query && most <= 1 ? attn::coverage::all : attn::coverage::some;
  }
};
static_assert(attn::Mask<two_chunks>);

}  // namespace

int main() {
  const two_chunks mask{.bits = 2};
  std::cout << "rows: queries, columns: keys; # seen, . hidden\n";
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 16; ++j) std::cout << (mask.visible({.query = i, .key = j}) ? " #" : " .");
    std::cout << "\n";
  }

  std::cout << "\nwhat cover says of its tiles of 4 x 4\n";
  for (int i = 0; i < 16; i += 4) {
    for (int j = 0; j < 16; j += 4) {
      const attn::tile tile{.row = i, .query = i, .key = j, .rows = 4, .keys = 4};
      const attn::coverage seen = mask.cover(tile);
      std::cout << (seen == attn::coverage::none  ? "  none"
                    : seen == attn::coverage::all ? "  all "
                                                  : "  some");
    }
    std::cout << "\n";
  }

  const Eigen::MatrixXf x = Eigen::MatrixXf::Random(256, 32);
  const Eigen::MatrixXf by_type = attn::scaled_dot_product_attention(x, x, x, mask);
  const Eigen::MatrixXf by_lambda = attn::scaled_dot_product_attention(
      x, x, x,
      [](attn::index query, attn::index key) { return key <= query && query / 4 - key / 4 <= 1; });
  std::cout << "\nlargest difference from a lambda: " << (by_type - by_lambda).cwiseAbs().maxCoeff()
            << "\n";
}
