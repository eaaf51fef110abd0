// What a benchmark's name stands for: sizes, feature, inputs, and a plain reference in double that
// shares no code with what it checks.
#pragma once

#include <attn/attn.hpp>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace bench {

using attn::index;

enum class feature {
  none,
  causal,
  window256,  // causal, the last 257 keys
  additive,   // a dense matrix, row-major
  boolean,    // a matrix that hides one pair in 64: no tile can be skipped or left untested
  alibi,
  lambda,
  softcap,
  column_major,   // no mask; query, key and value of each head are column-major
  blhd,           // no mask; batch, length, heads, width in memory, instead of batch, heads, length
  contiguous,     // no mask; keys and values in a cache, side by side
  paged16,        // the same in pages of 16 tokens
  scattered16,    // and these in no order, as where sequences have come and gone
  dropout,        // of one weight in ten
  bias,           // a bias for each head that all sequences share
  bias_gradient,  // the same, and its gradient is asked for
};

// The numbers of the features.
inline constexpr index window = 256;
inline constexpr double slope = 0.1;
inline constexpr double cap = 30;
inline constexpr attn::dropout dropped{.probability = 0.1, .seed = 1};

struct workload {
  std::string name;  // what/type/batch×heads×length×d/feature/threads:n
  std::string what;
  std::string type;
  index batch = 1;
  index heads = 1;      // of the query, in each sequence
  index key_heads = 1;  // written 8:2 where there are fewer
  index queries = 0;
  index keys = 0;  // written 1:4096 where they are others than the queries
  index width = 0;
  bench::feature feature = feature::none;
  int threads = 1;

  [[nodiscard]] index all_heads() const { return batch * heads; }
  [[nodiscard]] index key_head(index head) const {
    return head / heads * key_heads + head % heads / (heads / key_heads);
  }
  /// The last query stands at the last key.
  [[nodiscard]] index position(index row) const { return row + keys - queries; }
};

/// Throws std::invalid_argument for a name of another form.
workload parse(const std::string& name);

/// Heads in memory: batch, heads, rows, columns, in this order unless the feature has another.
template <class Scalar>
class tensor {
 public:
  tensor(const attn::heads_shape& shape, feature layout);

  /// Head h of all, as contiguous rows, or columns if that is the feature.
  [[nodiscard]] const Scalar* head(index h) const { return &at(h, 0, 0); }
  [[nodiscard]] Scalar* head(index h) { return &at(h, 0, 0); }
  [[nodiscard]] Scalar operator()(index h, index row, index col) const { return at(h, row, col); }
  [[nodiscard]] Scalar* data() { return data_.get(); }
  [[nodiscard]] index size() const { return view_.shape().size(); }

  /// All heads.
  [[nodiscard]] attn::heads_view<const Scalar> heads() const { return view_; }
  [[nodiscard]] attn::heads_view<Scalar> heads() { return view_; }

  /// The matrix of a head.
  template <class Matrix>
  [[nodiscard]] auto view(index h) const {
    return Eigen::Map<const Matrix>(head(h), view_.length(), view_.width());
  }

 private:
  [[nodiscard]] Scalar& at(index h, index row, index col) const {
    return view_(h / view_.heads(), h % view_.heads(), row, col);
  }

  std::unique_ptr<Scalar, decltype(&std::free)> data_;  // aligned to a cache line
  attn::heads_view<Scalar> view_;
};

template <class Scalar>
using row_major = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// Normal numbers, the same in every run, and the masks that the feature needs.
template <class Scalar>
struct inputs {
  explicit inputs(const workload& w);

  tensor<Scalar> query;
  tensor<Scalar> key;
  tensor<Scalar> value;
  row_major<Scalar> bias;  // the same for every head
  row_major<bool> visible;
};

/// The inputs of a workload. Kept until those of another are asked for.
template <class Scalar>
const inputs<Scalar>& inputs_of(const workload& w);

/// Pairs of a query and a key that see each other, in one head.
template <class Scalar>
double visible_pairs(const workload& w, const inputs<Scalar>& in);

/// What every stage makes of one row of a head.
struct reference_row {
  std::vector<double> score;
  std::vector<double> scale;
  std::vector<double> mask;  // and score change
  std::vector<double> softmax;
  std::vector<double> weighted_sum;
  std::vector<double> query_gradient;  // where the query is what came back for the result
};

template <class Scalar>
reference_row reference(const workload& w, const inputs<Scalar>& in, index head, index row);

/// Compares some rows of each head: computed(head, row, column) with a member of the reference.
/// Says where they differ; empty where they agree.
template <class Scalar, class Computed>
std::string disagreement(const workload& w, const inputs<Scalar>& in,
                         std::vector<double> reference_row::* stage, const Computed& computed) {
  constexpr double tolerance = 256 * double{std::numeric_limits<Scalar>::epsilon()};
  constexpr index rows_a_head = 3;  // the first, the last, and those between
  const index step = std::max<index>(1, (w.queries - 1) / (rows_a_head - 1));
  for (index head = 0; head < w.all_heads(); ++head) {
    for (index row = 0; row < w.queries; row += step) {
      const reference_row expected = reference(w, in, head, row);
      const std::vector<double>& numbers = expected.*stage;
      for (index col = 0; col < std::ssize(numbers); ++col) {
        const double wanted = numbers[static_cast<std::size_t>(col)];
        const double found = computed(head, row, col);
        const double bound = tolerance * std::max(1.0, std::abs(wanted));
        if (found == wanted || std::abs(found - wanted) <= bound) continue;
        return "head " + std::to_string(head) + ", row " + std::to_string(row) + ", column " +
               std::to_string(col) + " is " + std::to_string(found) + ", it should be " +
               std::to_string(wanted);
      }
    }
  }
  return {};
}

}  // namespace bench
