// Derivatives of score changes against central differences: those the library's own bring, those of
// lambdas by dual numbers, those that are given.
#include <attn/derivative.hpp>

#include "support/catch.hpp"
#include "support/generate.hpp"

namespace attn_test {
namespace {

const attn::position somewhere{.batch = 1, .head = 2, .row = 3, .query = 5, .key = 9};

template <class F>
void check_derivative(const char* name, const F& change, double low = -3, double high = 3,
                      const attn::position& at = somewhere) {
  INFO(name);
  generator g(991);
  const double h = tolerance::central_difference_step(tolerance::eps<double>());
  for (int n = 0; n < 100; ++n) {
    const double s = g.uniform(low, high);
    CAPTURE(s);
    const double above = attn::detail::change(change, s + h, at);
    const double expected = (above - attn::detail::change(change, s - h, at)) / (2 * h);
    CHECK(std::abs(attn::detail::derivative(change, s, at) - expected) <=
          tolerance::central_difference(tolerance::eps<double>()) *
              std::max(1.0, std::abs(expected)));
    // In float: an eps for each of a dozen operations, of what they are about.
    const auto narrow = static_cast<float>(s);
    const double exact = attn::detail::derivative(change, double{narrow}, at);
    CHECK(std::abs(double{attn::detail::derivative(change, narrow, at)} - exact) <=
          16 * tolerance::eps<float>() * (4 + std::abs(exact)));
  }
}

TEST_CASE("derivatives of the library's score changes") {
  check_derivative("identity", attn::identity());
  check_derivative("softcap", attn::softcap(1.7));
  check_derivative("alibi", attn::alibi(0.3));
  check_derivative("alibi of heads", attn::alibi({0.5, 0.25, 0.125}));
  check_derivative("relative_bias",
                   attn::relative_bias(Eigen::VectorXd(Eigen::VectorXd::Random(21))));
  check_derivative("composed", attn::compose(attn::softcap(1.2), attn::alibi(0.1)));
  check_derivative("composed", attn::compose(attn::alibi(0.1), attn::softcap(1.2)));
  check_derivative("composed three times",
                   attn::compose(attn::softcap(2), attn::alibi(0.1), attn::softcap(1)));
  CHECK(attn::detail::derivative(attn::softcap(1), 1e4, somewhere) == 0);
}

TEST_CASE("derivatives of lambdas that take a score of any type") {
  using attn::math::exp, attn::math::tanh, attn::math::sigmoid, attn::math::log, attn::math::exp2;
  using std::abs, std::sqrt, std::sin, std::cos, std::pow;
  check_derivative("constant", [](auto) { return 2.0f; });
  check_derivative("polynomial", [](auto s) { return s * s * s / 4 - 2 * s + 1; });
  check_derivative("quotient", [](auto s) { return (s - 1) / (s * s + 1); });
  check_derivative("1 / s", [](auto s) { return 1 / s; }, 0.5, 3);
  check_derivative("exp", [](auto s) { return exp(-s * s); });
  check_derivative("exp2", [](auto s) { return exp2(s / 2); });
  check_derivative("log", [](auto s) { return log(1 + exp(s)); });
  check_derivative("tanh", [](auto s) { return 2 * tanh(s / 2); });
  check_derivative("sigmoid", [](auto s) { return s * sigmoid(s); });
  check_derivative("sqrt", [](auto s) { return sqrt(s * s + 1); });
  check_derivative("sin and cos", [](auto s) { return sin(s) * cos(2 * s); });
  check_derivative("pow", [](auto s) { return pow(s, 3); }, 0.5, 3);
  check_derivative("abs", [](auto s) { return abs(s) * s; });
  CHECK(attn::detail::derivative([](auto s) { return abs(s); }, 0.0, somewhere) == 0);
  check_derivative("assigning", [](auto s) {
    auto sum = s;
    sum += 1;
    sum *= s;
    sum -= s / 3;
    sum /= 2;
    return -sum;
  });
  check_derivative("a choice", [](auto s) { return s > 0.3 ? s * s : s / 10; }, 0.4, 3);
  check_derivative("a choice", [](auto s) { return s > 0.3 ? s * s : s / 10; }, -3, 0.2);
  check_derivative("of the position", [](auto s, attn::position at) {
    return at.key % 2 == 1 ? s * static_cast<float>(at.query) : -s;
  });
  check_derivative("composed", attn::compose([](auto s) { return s * s; }, attn::softcap(2),
                                             [](auto s, attn::position) { return 3 * s; }));
}

TEST_CASE("a number that does not change passes nothing on, however steep what follows is") {
  const auto of = [](const auto& change, float s) {
    return attn::detail::derivative(change, s, somewhere);
  };
  const auto relu = [](auto s) { return s > 0 ? s : decltype(s)(0); };
  CHECK(of([&](auto s) { return sqrt(relu(s)); }, -1) == 0);
  CHECK(of([&](auto s) { return pow(relu(s), 0.5f); }, -1) == 0);
  CHECK(of([&](auto s) { return log(relu(s)); }, -1) == 0);
  CHECK(of(attn::compose(relu, [](auto s) { return sqrt(s); }), -1) == 0);
  CHECK(of([](auto s) { return exp(decltype(s)(200)) + s; }, 1) == 1);
  CHECK(of([](auto s) { return exp2(decltype(s)(200)) + s; }, 1) == 1);
  CHECK(of([](auto s) { return pow(s, 0); }, 0) == 0);
}

TEST_CASE("derivatives that are given") {
  check_derivative("of a score", attn::with_derivative([](auto s) { return std::sin(s); },
                                                       [](auto s) { return std::cos(s); }));
  check_derivative("with a position",
                   attn::with_derivative(
                       [](auto s, attn::position at) { return s * static_cast<float>(at.key); },
                       [](auto s, attn::position at) { return static_cast<decltype(s)>(at.key); }));
  check_derivative(
      "in a composition",
      attn::compose(attn::softcap(2),
                    attn::with_derivative([](auto s) { return std::exp(s / 2); },
                                          [](auto s) { return std::exp(s / 2) / 2; })));
  // The one that is given counts, whatever the function could tell.
  const auto straight_through =
      attn::with_derivative([](auto s) { return s * s; }, [](auto s) { return decltype(s)(1); });
  CHECK(attn::detail::derivative(straight_through, 3.0, somewhere) == 1);
  // A type of the user's with a member, of the score alone or with its position.
  struct own {
    double operator()(double s) const { return 2 * s; }
    double derivative(double) const { return 2; }
  };
  struct own_with_position {
    double operator()(double s, attn::position) const { return 2 * s; }
    double derivative(double, attn::position at) const { return at.key; }
  };
  CHECK(attn::detail::derivative(own(), 1.0, somewhere) == 2);
  CHECK(attn::detail::derivative(own_with_position(), 1.0, somewhere) == 9);
}

TEST_CASE("whether a position is looked at") {
  const auto plain = attn::with_derivative([](double s) { return s; }, [](double) { return 1.0; });
  const auto placed =
      attn::with_derivative([](double s) { return s; }, [](double, attn::position) { return 1.0; });
  CHECK(!attn::positional_score_mod<std::remove_const_t<decltype(plain)>, double>);
  CHECK(attn::positional_score_mod<std::remove_const_t<decltype(placed)>, double>);
}

// d change / d parameter, with the parameters of both in one list.
TEST_CASE("what is learned of a composition") {
  const Eigen::VectorXd table = Eigen::VectorXd::Random(21);
  const auto change = attn::compose(attn::alibi(0.2), attn::softcap(1.5),
                                    attn::relative_bias(table), attn::softcap(2));
  REQUIRE(attn::detail::parameters_of(change) == 22);
  const double h = tolerance::central_difference_step(tolerance::eps<double>());
  const auto with = [&](double slope, const Eigen::VectorXd& entries) {
    return attn::detail::change(attn::compose(attn::alibi(slope), attn::softcap(1.5),
                                              attn::relative_bias(entries), attn::softcap(2)),
                                0.7, somewhere);
  };
  std::vector<double> found(22, 10.0);  // which is added to
  attn::detail::add_parameter_gradient(change, 0.7, somewhere, -3.0, found.data());
  for (index n = 0; n < 22; ++n) {
    Eigen::VectorXd above = table, below = table;
    if (n > 0) above(n - 1) += h;
    if (n > 0) below(n - 1) -= h;
    const double by = n == 0 ? h : 0;
    const double expected = -3 * (with(0.2 + by, above) - with(0.2 - by, below)) / (2 * h);
    CAPTURE(n);
    CHECK(std::abs(found[static_cast<std::size_t>(n)] - 10 - expected) <=
          tolerance::central_difference(tolerance::eps<double>()));
    if (n == 0 || n == 1 + 10 + 4) CHECK(std::abs(expected) > 0.1);
  }
}

}  // namespace
}  // namespace attn_test
