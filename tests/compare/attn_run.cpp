// The program attn_run: what it writes is what the library gives for the arrays of its files, and
// it says what is wrong with its input.
#include <attn/attn.hpp>

#include "support/catch.hpp"
#include "support/generate.hpp"
#include "support/npy.hpp"
#include "support/program.hpp"

namespace {

using attn::heads_shape;
using attn::heads_view;
using attn_test::outcome;
using minilm_test::temporary_folder;

using words = std::vector<std::string>;

outcome run(const words& arguments) { return attn_test::run(ATTN_RUN, arguments); }

template <class T>
struct array {
  heads_shape shape;
  std::vector<T> numbers;

  explicit array(const heads_shape& n) : shape(n), numbers(std::size_t(n.size())) {}
  array(const heads_shape& n, attn_test::generator& g) : array(n) {
    for (T& x : numbers) x = static_cast<T>(g.uniform());
  }

  heads_view<const T> view() const { return attn::bhld(numbers.data(), shape); }
  heads_view<T> view() { return attn::bhld(numbers.data(), shape); }
  std::string save(const temporary_folder& folder, const std::string& name) const {
    const std::filesystem::path path = folder.path() / name;
    attn_test::write_npy(path, {shape.batch, shape.heads, shape.length, shape.width},
                         numbers.data());
    return path.string();
  }
};

// Bit by bit.
template <class T>
bool holds(const temporary_folder& folder, const std::string& name, const array<T>& expected) {
  const attn_test::npy_array found = attn_test::read_npy(folder.path() / "results" / name);
  const heads_shape& n = expected.shape;
  return found.shape == std::vector<std::int64_t>{n.batch, n.heads, n.length, n.width} &&
         found.as<T>() == expected.numbers;
}

// Query, key and value of two sequences, four heads on two, that are in files.
template <class T>
struct inputs {
  attn_test::generator g{7};
  temporary_folder folder;
  array<T> q{{2, 4, 5, 8}, g}, k{{2, 2, 9, 8}, g}, v{{2, 2, 9, 6}, g};
  array<T> out{{2, 4, 5, 6}}, log_sum_exp{{2, 4, 5, 1}};
  words arguments{"--query", q.save(folder, "q.npy"), "--key",   k.save(folder, "k.npy"),
                  "--value", v.save(folder, "v.npy"), "--write", (folder.path() / "results")};

  outcome run_with(const words& more) const {
    words all = arguments;
    all.insert(all.end(), more.begin(), more.end());
    return run(all);
  }
  template <class Mask>
  void attend(const Mask& mask, attn::options options) {
    options.log_sum_exp = log_sum_exp.view();
    attn::scaled_dot_product_attention_into(out.view(), q.view(), k.view(), v.view(), mask,
                                            options);
  }
  bool agree() const {
    return holds(folder, "out.npy", out) && holds(folder, "log_sum_exp.npy", log_sum_exp);
  }
};

template <class T>
void check_round_trips() {
  inputs<T> in;
  CHECK(in.run_with({}).exit_code == 0);
  in.attend(attn::none(), {});
  CHECK(in.agree());

  const words causal = {"--causal", "--alignment", "bottom_right"};
  CHECK(in.run_with(causal).exit_code == 0);
  in.attend(attn::causal(), {.alignment = attn::bottom_right});
  CHECK(in.agree());

  CHECK(in.run_with({"--window", "3,1", "--alignment", "2", "--scale", "0.3", "--threads", "2"})
            .exit_code == 0);
  in.attend(attn::sliding_window(3, 1), {.alignment = attn::offset(2), .scale = 0.3});
  CHECK(in.agree());

  const array<T> bias({1, 4, 5, 9}, in.g);
  CHECK(in.run_with({"--mask", bias.save(in.folder, "bias.npy")}).exit_code == 0);
  in.attend(bias.view(), {});
  CHECK(in.agree());
}

}  // namespace

TEST_CASE("attn_run writes what the library gives") {
  check_round_trips<float>();
  check_round_trips<double>();
}

TEST_CASE("attn_run reads masks of bool and joins them with what positions hide") {
  inputs<float> in;
  const auto visible = std::make_unique<bool[]>(45);
  for (int n = 0; n < 45; ++n) visible[std::size_t(n)] = n % 4 != 1;
  const std::string mask = (in.folder.path() / "mask.npy").string();
  attn_test::write_npy(mask, {1, 1, 5, 9}, visible.get());
  const words arguments = {"--mask", mask, "--causal", "--alignment", "top_left"};
  CHECK(in.run_with(arguments).exit_code == 0);
  in.attend(attn::causal() & attn::bhld<const bool>(visible.get(), {1, 1, 5, 9}),
            {.alignment = attn::top_left});
  CHECK(in.agree());
}

TEST_CASE("attn_run goes back") {
  inputs<double> in;
  const array<double> out_gradient({2, 4, 5, 6}, in.g);
  const words arguments = {"--backward", out_gradient.save(in.folder, "g.npy")};
  REQUIRE(in.run_with(arguments).exit_code == 0);
  in.attend(attn::none(), {});
  CHECK(in.agree());
  array<double> dq(in.q.shape), dk(in.k.shape), dv(in.v.shape);
  attn::scaled_dot_product_attention_backward(
      {.key = dk.view(), .query = dq.view(), .value = dv.view()},
      {.log_sum_exp = in.log_sum_exp.view(),
       .out = in.out.view(),
       .out_gradient = out_gradient.view()},
      std::as_const(in.q).view(), std::as_const(in.k).view(), std::as_const(in.v).view());
  CHECK(holds(in.folder, "query_gradient.npy", dq));
  CHECK(holds(in.folder, "key_gradient.npy", dk));
  CHECK(holds(in.folder, "value_gradient.npy", dv));
}

TEST_CASE("attn_run has naive Eigen do the same") {
  inputs<float> in;
  in.v = array<float>({2, 2, 9, 8}, in.g);
  in.v.save(in.folder, "v.npy");
  in.out = array<float>({2, 4, 5, 8});
  const array<float> bias({1, 1, 5, 9}, in.g);
  const words arguments = {
      "--naive",     "--window",    "3,0", "--mask", bias.save(in.folder, "bias.npy"),
      "--alignment", "bottom_right"};
  REQUIRE(in.run_with(arguments).exit_code == 0);
  in.attend(attn::sliding_window(3, 0) & bias.view(), {.alignment = attn::bottom_right});
  const auto found = attn_test::read_npy(in.folder.path() / "results" / "out.npy").as<float>();
  REQUIRE(found.size() == in.out.numbers.size());
  for (std::size_t n = 0; n < found.size(); ++n) {
    CHECK(std::abs(found[n] - in.out.numbers[n]) < 1e-5F);
  }
}

TEST_CASE("attn_run answers lines until it is told to quit") {
  const inputs<float> in;
  const std::string load = "load --query " + in.arguments[1] + " --key " + in.arguments[3] +
                           " --value \"" + in.arguments[5] + "\"";
  const std::string results = (in.folder.path() / "results").string();
  const outcome said =
      attn_test::run(ATTN_RUN, {"--serve"}, "",
                     "time 1\n" + load + "\ntime 3\nwrite " + results +
                         "\nmemory\ntime\n\nsing\nload --query no.npy\nquit\n" + load + "\n");
  CHECK(said.exit_code == 0);
  std::istringstream lines(said.out);
  std::vector<std::string> answers;
  for (std::string line; std::getline(lines, line);) answers.push_back(line);
  REQUIRE(answers.size() == 9);  // and none to what comes after quit
  CHECK(answers[0] == "error nothing is loaded");
  CHECK(answers[1] == "ok");
  CHECK(std::stod(answers[2].substr(3)) > 0);
  CHECK(answers[3] == "ok");
  CHECK(std::filesystem::exists(results + "/out.npy"));
  CHECK(std::stol(answers[4].substr(3)) >= 0);
  CHECK(answers[5] == "error time takes 1 words");
  CHECK(answers[6] == "error unknown command \"\", expected load, write, time, memory or quit");
  CHECK(answers[7] == "error unknown command \"sing\", expected load, write, time, memory or quit");
  CHECK(answers[8] == "error --key is missing; attn_run --help explains");
}

TEST_CASE("attn_run tells how long calls take, and explains itself") {
  const inputs<float> in;
  const outcome timed = in.run_with({"--time", "3"});
  CHECK(timed.exit_code == 0);
  CHECK(std::stod(timed.out) > 0);
  const outcome help = run({"--help"});
  CHECK(help.exit_code == 0);
  CHECK(help.out.find("--alignment WHERE") != help.out.npos);
}

TEST_CASE("attn_run refuses bad input") {
  const inputs<float> in;
  const auto refused = [&](const words& more, const std::string& message) {
    const outcome said = in.run_with(more);
    CHECK(said.exit_code == 1);
    CHECK(said.out.empty());
    CHECK(said.error == "attn_run: " + message + "\n");
  };
  const std::string& query = in.arguments[1];
  CHECK(run({}).error == "attn_run: --query is missing; attn_run --help explains\n");
  refused({"--sing"}, "unknown option --sing; attn_run --help explains");
  refused({"--scale"}, "--scale needs a value");
  refused({"--scale", "1x"}, "--scale is \"1x\", it should be a number");
  refused({"--window", "3"}, "--window is \"3\", it should be LEFT,RIGHT: two whole numbers");
  refused({"--window", "3,x"}, "--window is \"x\", it should be LEFT,RIGHT: two whole numbers");
  refused({"--window", "-2,0", "--alignment", "0"},
          "sliding_window has left -2, it should be at least 0, or -1 for unbounded");
  refused({"--causal", "--window", "3,0"},
          "--causal and --window are both given: --window LEFT,0 is both");
  refused({"--threads", "0"}, "--threads is 0, it should be at least 1");
  refused({"--alignment", "left"},
          "--alignment is \"left\", it should be top_left, bottom_right or a whole number");
  refused({"--key", "none.npy"}, "cannot read none.npy: it does not open");
  CHECK(in.run_with({"--causal"}).error.find("alignment") != std::string::npos);
  CHECK(in.run_with({"--key", query, "--value", query, "--mask", query}).exit_code == 1);

  const std::string flat = (in.folder.path() / "flat.npy").string();
  attn_test::write_npy(flat, {5, 8}, in.q.numbers.data());
  refused({"--query", flat},
          "query in " + flat + " is 5 x 8, it should be batch x heads x length x width");
  const std::vector<std::int32_t> whole(8);
  const std::string integers = (in.folder.path() / "integers.npy").string();
  attn_test::write_npy(integers, {1, 1, 1, 8}, whole.data());
  refused({"--query", integers},
          "query in " + integers + " has dtype <i4, it should have <f4 or <f8");
  refused({"--mask", integers}, "mask has dtype <i4, it should have <f4 as query has");
  refused({"--key", array<double>(in.k.shape).save(in.folder, "double.npy")},
          "key has dtype <f8, it should have <f4 as query has");
  refused({"--key", array<float>({2, 2, 9, 7}).save(in.folder, "narrow.npy")},
          "key has width 7, query has 8");
}

TEST_CASE("attn_run says what naive Eigen does not do") {
  const inputs<float> in;
  const auto refused = [&](words more, const std::string& message) {
    more.insert(more.end(), {"--naive", "--value", in.arguments[3]});
    const outcome said = in.run_with(more);
    CHECK(said.exit_code == 1);
    CHECK(said.error == "attn_run: naive Eigen " + message + "\n");
  };
  const std::string& query = in.arguments[1];
  refused({"--scale", "1"}, "has a scale of its own, it takes none");
  refused({"--backward", query}, "has no way back");
  refused({"--window", "3,1"}, "has windows that end at the query's own key, right should be 0");
  refused({"--causal"},
          "has the last query at the last key, so the alignment should be bottom_right");
  refused({"--mask", query}, "takes a mask for all heads, 1 x 1 x queries x keys");
  refused({"--query", in.arguments[3], "--key", query},
          "needs keys and values that fit, query has 2 x 2 x 9 x 8, key 2 x 4 x 5 x 8, value "
          "2 x 2 x 9 x 8");
}
