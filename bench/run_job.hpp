// A call of attention on arrays that are read from .npy files: made once, then repeated, timed and
// written out by attn_run.
#pragma once

#include <attn/attn.hpp>
#include <filesystem>
#include <memory>
#include <optional>

namespace bench {

/// How many keys before and after its own a query sees; attn::unbounded leaves a side open.
struct run_window {
  attn::index left = attn::unbounded;
  attn::index right = attn::unbounded;
};

/// Files hold batch x heads x length x width numbers, all float32 or all float64.
struct run_request {
  std::filesystem::path query, key, value;
  std::filesystem::path mask;          // bool or as query; empty: none
  std::filesystem::path out_gradient;  // given: the way back is part of each call
  bool causal = false;
  std::optional<run_window> window;
  std::optional<double> scale;
  attn::alignment alignment;
  int threads = 1;
  bool naive = false;  // by plain Eigen instead of the library
};

class run_job {
 public:
  run_job() = default;
  virtual ~run_job() = default;
  run_job(const run_job&) = delete;
  run_job& operator=(const run_job&) = delete;

  virtual void call() = 0;
  /// Calls, and writes what comes out: out.npy, of the library log_sum_exp.npy too, and of a way
  /// back query_gradient.npy, key_gradient.npy and value_gradient.npy. The folder must exist.
  virtual void write(const std::filesystem::path& folder) = 0;
};

/// Reads the files. Throws std::invalid_argument or std::runtime_error for files that do not fit;
/// what the library checks itself, the first call throws.
std::unique_ptr<run_job> make_job(const run_request& request);

}  // namespace bench
