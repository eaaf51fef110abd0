// Who runs the tasks of a call: the calling thread, some std::threads, or anything of the user's
// that can run n tasks.
#pragma once

#include <algorithm>
#include <atomic>
#include <attn/config.hpp>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace attn {

/// A task of a call, by number. A reference: valid until the executor returns.
class task {
 public:
  template <class F>
    requires(!std::is_same_v<std::remove_cvref_t<F>, task>)
  explicit task(const F& function)
      : function_(&function),
        run_([](const void* f, index i) { (*static_cast<const F*>(f))(i); }) {}

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

  template <class F>
    requires(!std::is_same_v<std::remove_cvref_t<F>, executor> &&
             std::is_invocable_v<const std::remove_cvref_t<F>&, index, task>)
  executor(F&& run) : run_(std::forward<F>(run)) {}  // NOLINT(*-explicit-*): options convert to it

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

/// Runs tasks on `threads` threads, the calling one among them, each taking the next task when it
/// is done with one. The first exception of a task reaches the caller, when all threads have
/// stopped.
class std_threads {
 public:
  /// `threads` must be at least 1.
  explicit std_threads(int threads) : threads_(threads) {
    detail::require(threads >= 1, "std_threads has ", threads, " threads, it should be at least 1");
  }

  void operator()(index n, task each) const {
    std::atomic<index> next = 0;
    std::exception_ptr failure;
    std::mutex failing;
    const auto work = [&] {
      for (index i = next++; i < n; i = next++) {
#if ATTN_HAS_EXCEPTIONS
        try {
          each(i);
        } catch (...) {
          next = n;
          const std::scoped_lock lock(failing);
          if (!failure) failure = std::current_exception();
        }
#else
        each(i);
#endif
      }
    };
    {
      std::vector<std::jthread> helpers;
      const index wanted = std::max<index>(std::min<index>(threads_, n) - 1, 0);
      helpers.reserve(static_cast<std::size_t>(wanted));
      for (index i = 0; i < wanted; ++i) helpers.emplace_back(work);
      work();
    }
    if (failure) std::rethrow_exception(failure);
  }

 private:
  int threads_;
};

}  // namespace attn
