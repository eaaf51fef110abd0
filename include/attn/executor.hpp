// Who runs the tasks of a call: the calling thread, some std::threads, or anything of the user's
// that can run n tasks.
#pragma once

#include <algorithm>
#include <atomic>
#include <attn/config.hpp>
#include <exception>
#include <functional>
#include <memory>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace attn::inline ATTN_ABI {

/// A task of a call, by number. A reference: valid until the executor returns.
class task {
 public:
  /// Refers to a function of an index.
  template <class F>
    requires(!std::is_same_v<std::remove_cvref_t<F>, task>)
  explicit task(const F& function)
      : function_(&function),
        run_([](const void* f, index i) { (*static_cast<const F*>(f))(i); }) {}

  /// Runs one task.
  void operator()(index i) const { run_(function_, i); }

 private:
  const void* function_;
  void (*run_)(const void*, index);
};

/// Runs n tasks and returns when all are done. Made of any function `(index n, auto task)` that
/// calls `task(i)` once for every i in [0, n), in any order, on any threads; by default, one after
/// the other on the calling thread. The results do not depend on it.
class executor {
 public:
  executor() = default;

  /// Of a function `(index n, auto task)`, which is copied.
  template <class F>
    requires(!std::is_same_v<std::remove_cvref_t<F>, executor> &&
             std::is_invocable_v<const std::remove_cvref_t<F>&, index, task>)
  executor(F&& run) : run_(std::forward<F>(run)) {}  // NOLINT(*-explicit-*): options convert to it

  /// Whether tasks run one after the other on the calling thread, by default.
  [[nodiscard]] bool is_serial() const { return !run_; }

  void operator()(index n, task each) const {
    if (run_) {
      run_(n, each);
    } else {
      for (index i = 0; i < n; ++i) each(i);
    }
  }

 private:
  std::function<void(index, task)> run_;
};

namespace detail {

/// The tasks of one call, for any number of threads to take one after the other.
class task_queue {
 public:
  task_queue(index tasks, task each) : tasks_(tasks), each_(each) {}

  /// Runs tasks until none is left to take. After a task has thrown, the others are passed over.
  void work() {
    for (index i = next_++; i < tasks_; i = next_++) {
#if ATTN_HAS_EXCEPTIONS
      try {
        if (!failed_) each_(i);
      } catch (...) {
        if (!failed_.exchange(true)) failure_ = std::current_exception();
      }
#else
      each_(i);
#endif
      if (++done_ == tasks_) done_.notify_all();
    }
  }

  /// Returns when all tasks are done; throws what the first to fail has thrown. A thread that comes
  /// to `work` later finds nothing to do, so that nobody need wait for it.
  void wait() {
    for (index done = done_; done < tasks_; done = done_) done_.wait(done);
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  index tasks_;
  task each_;
  std::atomic<index> next_ = 0;
  std::atomic<index> done_ = 0;
  std::atomic<bool> failed_ = false;
  std::exception_ptr failure_;
};

/// Calls start() for each helper that is wanted. Where one cannot be had, those that are there do
/// the work.
template <class Start>
void start_helpers(index wanted, const Start& start) {
#if ATTN_HAS_EXCEPTIONS
  try {
    for (index i = 0; i < wanted; ++i) start();
  } catch (...) {
    return;
  }
#else
  for (index i = 0; i < wanted; ++i) start();
#endif
}

}  // namespace detail

/// Runs tasks on `threads` threads, the calling one among them, each taking the next task when it
/// is done with one. The first exception of a task reaches the caller, when all have stopped.
class std_threads {
 public:
  /// `threads` must be at least 1.
  explicit std_threads(int threads) : threads_(threads) {
    detail::require(threads >= 1, "std_threads has ", threads, " threads, it should be at least 1");
  }

  void operator()(index n, task each) const {
    detail::task_queue queue(n, each);
    {
      std::vector<std::jthread> helpers;
      const index wanted = std::max<index>(std::min<index>(threads_, n) - 1, 0);
      helpers.reserve(static_cast<std::size_t>(wanted));
      detail::start_helpers(wanted, [&] { helpers.emplace_back([&queue] { queue.work(); }); });
      queue.work();
    }
    queue.wait();
  }

 private:
  int threads_;
};

/// Runs tasks on an Eigen::ThreadPool, or anything with its `Schedule(function)` and
/// `NumThreads()`, and on the calling thread, which may be one of the pool's. The pool must outlive
/// the calls.
template <class Pool>
class eigen_pool {
 public:
  /// Refers to a pool, which must outlive it.
  explicit eigen_pool(Pool& pool) : pool_(&pool) {}

  void operator()(index n, task each) const {
    const auto queue = std::make_shared<detail::task_queue>(n, each);
    const index wanted = std::min<index>(pool_->NumThreads(), n - 1);
    detail::start_helpers(wanted, [&] { pool_->Schedule([queue] { queue->work(); }); });
    queue->work();
    queue->wait();
  }

 private:
  Pool* pool_;
};

#ifdef _OPENMP
/// Runs tasks on OpenMP's threads: `threads` of them, or as many as OpenMP likes for 0. There only
/// where the compiler is told to use OpenMP (-fopenmp).
class openmp {
 public:
  /// Throws std::invalid_argument for a negative number.
  explicit openmp(int threads = 0) : threads_(threads) {
    detail::require(threads >= 0, "openmp has ", threads, " threads, it should be at least 0");
  }

  void operator()(index n, task each) const {
    detail::task_queue queue(n, each);
    if (threads_ == 0) {
#pragma omp parallel
      queue.work();
    } else {
#pragma omp parallel num_threads(threads_)
      queue.work();
    }
    queue.wait();
  }

 private:
  int threads_;
};
#endif

}  // namespace attn::inline ATTN_ABI
