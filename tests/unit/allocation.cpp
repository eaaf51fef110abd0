// Calls on fixed sizes allocate nothing.
#include "support/allocations.hpp"
// It comes before what it counts.
#include <attn/attention.hpp>
#include <string>

#include "support/catch.hpp"

namespace attn_test {
namespace {

TEST_CASE("the count counts") {
  CHECK(allocations_of([] { Eigen::MatrixXf(3, 3).setZero(); }) > 0);
  std::string kept;
  CHECK(allocations_of([&] { kept.assign(100, 'x'); }) > 0);
  CHECK(kept.size() == 100);
  const Eigen::MatrixXf q = Eigen::MatrixXf::Ones(4, 8);
  CHECK(allocations_of([&] { attn::scaled_dot_product_attention(q, q, q); }) > 0);
}

template <class Q, class K, class V>
void allocates_nothing() {
  Q q;
  K k;
  V v;
  q.setRandom();
  k.setRandom();
  v.setRandom();
  using scalar = attn::accumulator_t<typename Q::Scalar>;
  Eigen::Matrix<bool, Q::RowsAtCompileTime, K::RowsAtCompileTime> visible;
  visible.setConstant(true);
  Eigen::Matrix<scalar, Q::RowsAtCompileTime, K::RowsAtCompileTime> bias, weights;
  bias.setZero();
  Eigen::Matrix<scalar, Q::RowsAtCompileTime, 1> lse;
  float sum = 0;
  const auto attend = [&](const auto&... more) {
    sum += static_cast<float>(attn::scaled_dot_product_attention(q, k, v, more...).sum());
  };
  const auto tilt = [](auto s, attn::position at) {
    return s - static_cast<decltype(s)>(at.query - at.key);
  };
  const attn::options given{.alignment = attn::bottom_right};
  CHECK(allocations_of([&] { attend(); }) == 0);
  CHECK(allocations_of([&] { attend(attn::causal(), given); }) == 0);
  CHECK(allocations_of([&] { attend(visible); }) == 0);
  CHECK(allocations_of([&] { attend(attn::causal() & visible & bias, given); }) == 0);
  CHECK(allocations_of([&] { attend(~attn::causal() | attn::sliding_window(1), given); }) == 0);
  CHECK(allocations_of(
            [&] { attend(attn::none(), attn::compose(attn::softcap(2), tilt), given); }) == 0);
  CHECK(allocations_of([&] {
          attend(attn::options{.log_sum_exp = lse, .scale = 0.5, .sink = 1, .weights = weights});
        }) == 0);
  const auto first = v(0, 0);
  v(0, 0) = std::numeric_limits<typename V::Scalar>::quiet_NaN();  // the path that looks closer
  CHECK(allocations_of([&] { attend(attn::causal(), given); }) == 0);
  v(0, 0) = first;

  CHECK(allocations_of([&] {
          const auto s = attn::scale(attn::score(q, k), 0.5);
          const auto p = attn::softmax(attn::apply_mask(attn::apply_score_mod(s, attn::softcap(3)),
                                                        attn::causal(), attn::top_left));
          sum += static_cast<float>(attn::log_sum_exp(s).sum());
          sum += static_cast<float>(attn::weighted_sum(p, v).sum());
          sum += static_cast<float>(attn::weighted_sum(p, v, visible).sum());
        }) == 0);
  CHECK(std::isnan(sum));  // of the NaN: nothing was optimised away
}

template <class Scalar, int Rows, int Cols, int Options = Eigen::ColMajor>
using fixed = Eigen::Matrix<Scalar, Rows, Cols, Options>;

TEST_CASE("calls on fixed sizes allocate nothing") {
  allocates_nothing<fixed<float, 4, 8>, fixed<float, 6, 8>, fixed<float, 6, 3>>();
  allocates_nothing<fixed<double, 16, 16, Eigen::RowMajor>, fixed<double, 16, 16>,
                    fixed<double, 16, 16, Eigen::RowMajor>>();
  allocates_nothing<fixed<Eigen::half, 3, 5>, fixed<Eigen::half, 2, 5>, fixed<Eigen::half, 2, 1>>();
  allocates_nothing<fixed<float, 1, 8, Eigen::RowMajor>, fixed<float, 5, 8>, fixed<float, 5, 4>>();
  // Few queries and many keys, in one chunk and in several.
  allocates_nothing<fixed<float, 8, 16, Eigen::RowMajor>, fixed<float, 128, 16, Eigen::RowMajor>,
                    fixed<float, 128, 64, Eigen::RowMajor>>();
  allocates_nothing<fixed<double, 3, 4, Eigen::RowMajor>, fixed<double, 1100, 4, Eigen::RowMajor>,
                    fixed<double, 1100, 4, Eigen::RowMajor>>();
  // More rows than a kernel takes at once.
  allocates_nothing<fixed<float, 64, 16>, fixed<float, 64, 16>, fixed<float, 64, 16>>();
  allocates_nothing<fixed<double, 50, 64>, fixed<double, 64, 64>, fixed<double, 64, 40>>();
}

TEST_CASE("calls on sizes with a fixed bound allocate nothing") {
  using bounded = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, 0, 8, 8>;
  const bounded q = bounded::Random(3, 5), k = bounded::Random(7, 5), v = bounded::Random(7, 2);
  float sum = 0;
  CHECK(allocations_of([&] {
          sum += attn::scaled_dot_product_attention(q, k, v, attn::causal(),
                                                    {.alignment = attn::top_left})
                     .sum();
        }) == 0);
  CHECK(std::isfinite(sum));
}

}  // namespace
}  // namespace attn_test
