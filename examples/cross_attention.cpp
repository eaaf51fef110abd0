// Cross-attention: words look for their places in an image. Queries come from the text, keys and
// values from the image, and a value (a place: 2 numbers) has another width than a key (a colour:
// 3).
#include <attn/attn.hpp>
#include <cstdio>
#include <string>
#include <string_view>

namespace {

// A picture of 16 x 8 pixels: blue, yellow, red, green. A patch is 2 x 2 pixels.
constexpr std::string_view image[] = {"bbbbbbbbbbbbyybb",  //
                                      "bbbbbbbbbbbyyyyb",  //
                                      "bbbbbbbbbbbyyyyb",  //
                                      "bbbrrbbbbbbbyybb",  //
                                      "bbrrrrbbbbbbbbbb",  //
                                      "bbrrrrbbbbbbbbbb",  //
                                      "ggrrrrgggggggggg",  //
                                      "gggggggggggggggg"};
constexpr int columns = 8, rows = 4;

Eigen::RowVector3f colour(char pixel) {
  switch (pixel) {
    case 'b':
      return {-1, -1, 1};
    case 'y':
      return {1, 1, -1};
    case 'r':
      return {1, -1, -1};
    default:
      return {-1, 1, -1};
  }
}

}  // namespace

int main() {
  Eigen::MatrixXf key(rows * columns, 3), value(rows * columns, 2);
  for (int patch = 0; patch < rows * columns; ++patch) {
    const int x = 2 * (patch % columns), y = 2 * (patch / columns);
    key.row(patch).setZero();
    for (int pixel = 0; pixel < 4; ++pixel) {
      const std::string_view line = image[y + pixel / 2];
      const auto column = static_cast<std::size_t>(x) + static_cast<std::size_t>(pixel) % 2;
      key.row(patch) += colour(line[column]) / 4;
    }
    value.row(patch) << float(x + 1), float(y + 1);  // where the patch has its middle
  }

  const std::string_view words[] = {"sun", "house", "grass", "sky"};
  Eigen::MatrixXf query(4, 3);
  query << colour('y'), colour('r'), colour('g'), colour('b');
  query *= 6;  // the longer the query, the more decided its attention

  Eigen::MatrixXf weights;
  const Eigen::MatrixXf place =
      attn::scaled_dot_product_attention(query, key, value, {.weights = weights});
  for (const std::string_view line : image) std::printf("  %s\n", std::string(line).c_str());
  for (int word = 0; word < 4; ++word) {
    std::printf("\n\"%s\" looks at x = %.1f, y = %.1f\n", std::string(words[word]).c_str(),
                double(place(word, 0)), double(place(word, 1)));
    const float most = weights.row(word).maxCoeff();
    for (int patch = 0; patch < rows * columns; ++patch) {
      const float share = weights(word, patch) / most;
      std::printf("%s%s%s", patch % columns == 0 ? "  " : "",
                  share > 0.5f    ? "##"
                  : share > 0.05f ? "++"
                                  : "..",
                  patch % columns == columns - 1 ? "\n" : "");
    }
  }
}
