// Executors: the same bits whoever runs the tasks, and exceptions that arrive.
#include <atomic>
#include <set>
#include <thread>

#include "unit/laws.hpp"

namespace attn_test {
namespace {

TEST_CASE("an executor runs every task once") {
  for (const attn::executor& run :
       {attn::executor(), attn::executor(attn::std_threads(1)),
        attn::executor(attn::std_threads(3)), attn::executor(attn::std_threads(8))}) {
    for (const index n : {0, 1, 2, 7, 100}) {
      std::vector<std::atomic<int>> counts(static_cast<std::size_t>(n));
      run(n, attn::task([&](index i) { ++counts[static_cast<std::size_t>(i)]; }));
      for (const auto& count : counts) CHECK(count == 1);
    }
  }
}

TEST_CASE("std_threads are as many threads as asked for, the caller among them") {
  std::mutex guard;
  std::set<std::thread::id> threads;
  std::atomic<int> waiting = 0;
  const auto meet = [&](index) {
    {
      const std::scoped_lock lock(guard);
      threads.insert(std::this_thread::get_id());
    }
    ++waiting;
    while (waiting < 3) std::this_thread::yield();  // returns only if three run at once
  };
  attn::std_threads{3}(3, attn::task(meet));
  CHECK(threads.size() == 3);
  CHECK(threads.count(std::this_thread::get_id()) == 1);
}

TEST_CASE("the same bits for any executor and any number of threads") {
  const std::vector<attn::executor> executors{
      attn::std_threads(1),
      attn::std_threads(2),
      attn::std_threads(3),
      attn::std_threads(8),
      [](attn::index n, auto task) {
        for (attn::index i = 0; i < n; ++i) task(i);
      },
      [](attn::index n, auto task) {  // the last first
        for (attn::index i = n - 1; i >= 0; --i) task(i);
      },
      [](attn::index n, const attn::task& task) {  // all at once
        std::vector<std::jthread> threads;
        for (attn::index i = 0; i < n; ++i) threads.emplace_back([&task, i] { task(i); });
      }};
  generator g(141);
  for (const shape n : {shape{1, 3, 2, 2},
                        {50, 20, 8, 4},
                        {200, 90, 8, 4},
                        {333, 65, 3, 7},
                        {0, 5, 2, 2},
                        {130, 0, 2, 2}}) {
    problem<float> p = any_problem<float>(g, n);
    p.offset = n.keys - n.queries;
    if (n.keys > 10) {
      p.k(7, 0) = std::numeric_limits<float>::quiet_NaN();  // on the path that looks closer
      p.v(9, 1) = std::numeric_limits<float>::infinity();
    }
    for (const any_mask& mask : {any_mask(attn::none()), any_mask(attn::causal())}) {
      const auto serial = run(one_call(), p, mask, attn::identity());
      for (const attn::executor& executor : executors) {
        CHECK(same_bits(serial, run(one_call(), p, mask, attn::identity(), executor)));
      }
    }
  }
}

// Long calls are cut into tasks, or std_threads would be of no use.
TEST_CASE("a long call has tasks to share") {
  generator g(142);
  const problem<float> p = any_problem<float>(g, {400, 30, 4, 4});
  attn::index tasks = 0;
  run(one_call(), p, attn::none(), attn::identity(), [&](attn::index n, auto task) {
    tasks = n;
    for (attn::index i = 0; i < n; ++i) task(i);
  });
  CHECK(tasks >= 4);
}

TEST_CASE("what a user's function throws on a thread reaches the caller") {
  struct trouble {
    index row;
  };
  generator g(143);
  const problem<float> p = any_problem<float>(g, {300, 40, 4, 4});
  for (const attn::executor& executor :
       {attn::executor(), attn::executor(attn::std_threads(1)),
        attn::executor(attn::std_threads(2)), attn::executor(attn::std_threads(8))}) {
    for (const index row : {0, 150, 299}) {
      const auto mask = [row](attn::position at) {
        if (at.row == row) throw trouble{at.row};
        return true;
      };
      const auto change = [row](float s, attn::position at) {
        if (at.row == row) throw std::runtime_error("a score change of the user's");
        return s;
      };
      try {
        run(one_call(), p, attn::as_mask(mask), attn::identity(), executor);
        FAIL("nothing arrived");
      } catch (const trouble& error) {
        CHECK(error.row == row);
      }
      CHECK_THROWS_AS(run(one_call(), p, attn::none(), change, executor), std::runtime_error);
      // The next call is as good as ever.
      check_against(expect(p), run(one_call(), p, attn::none(), attn::identity(), executor));
    }
  }
}

TEST_CASE("masks and score changes are asked about pairs of the call only, from any thread") {
  generator g(144);
  for (int repeat = 0; repeat < 10; ++repeat) {
    const shape n = any_shape(g, 150);
    const problem<float> sample = any_problem<float>(g, n);
    problem<float> p = sample;
    p.offset = g.between(-9, 9);
    std::atomic<int> outside = 0;
    const auto ask = [&](attn::position at) {
      if (at.row < 0 || at.row >= n.queries || at.key < 0 || at.key >= n.keys ||
          at.query != at.row + p.offset || at.batch != 0 || at.head != 0) {
        ++outside;
      }
    };
    const auto mask = [&](attn::position at) {
      ask(at);
      return (at.row + at.key) % 3 != 0;
    };
    const auto change = [&](float s, attn::position at) {
      ask(at);
      return s;
    };
    run(one_call(), p, attn::as_mask(mask), change, attn::std_threads(3));
    CHECK(outside == 0);
  }
}

}  // namespace
}  // namespace attn_test
