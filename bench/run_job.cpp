// Arrays from files, and the calls on them: of the library and of naive Eigen.
#include "run_job.hpp"

#include <attn/gradient.hpp>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unsupported/Eigen/CXX11/ThreadPool>
#include <vector>

#include "naive.hpp"
#include "support/npy.hpp"
#include "workload.hpp"

namespace bench {
namespace {

using attn_test::npy_array;

std::string text(const std::vector<std::int64_t>& shape) {
  std::string result;
  for (const std::int64_t extent : shape) {
    result += (result.empty() ? "" : " x ") + std::to_string(extent);
  }
  return result.empty() ? "a single number" : result;
}

/// The array of four dimensions in a file.
npy_array read(std::string_view name, const std::filesystem::path& path) {
  npy_array array = attn_test::read_npy(path);
  if (array.shape.size() != 4) {
    throw std::invalid_argument(std::string(name) + " in " + path.string() + " is " +
                                text(array.shape) +
                                ", it should be batch x heads x length x width");
  }
  return array;
}

template <class Element>
tensor<Element> as_tensor(std::string_view name, const npy_array& array) {
  if (array.dtype != attn_test::npy_dtype<Element>()) {
    throw std::invalid_argument(std::string(name) + " has dtype " + array.dtype +
                                ", it should have " + std::string(attn_test::npy_dtype<Element>()) +
                                " as query has");
  }
  tensor<Element> result({array.shape[0], array.shape[1], array.shape[2], array.shape[3]},
                         feature::none);
  if (!array.bytes.empty()) {
    std::memcpy(static_cast<void*>(result.data()), array.bytes.data(), array.bytes.size());
  }
  return result;
}

template <class Scalar>
tensor<Scalar> read_tensor(std::string_view name, const std::filesystem::path& path) {
  return as_tensor<Scalar>(name, read(name, path));
}

template <class Scalar>
void write(const std::filesystem::path& path, const tensor<Scalar>& t) {
  const attn::heads_shape n = t.heads().shape();
  attn_test::write_npy(path, {n.batch, n.heads, n.length, n.width}, t.heads().data());
}

/// Threads that wait for work between calls.
class waiting_threads {
 public:
  explicit waiting_threads(int threads) {
    if (threads > 1) {
      pool_ = std::make_unique<Eigen::ThreadPool>(threads - 1);
      executor_ = attn::eigen_pool(*pool_);
    }
  }
  [[nodiscard]] const attn::executor& executor() const { return executor_; }

 private:
  std::unique_ptr<Eigen::ThreadPool> pool_;
  attn::executor executor_;
};

/// Memory that is first written to by a call, so that the call is seen to take it.
template <class Scalar>
tensor<Scalar> result_of(attn::heads_shape shape) {
  return tensor<Scalar>(shape, feature::none);
}

attn::heads_shape with_width(attn::heads_shape shape, index width) {
  shape.width = width;
  return shape;
}

template <class Scalar>
class library_job : public run_job {
 public:
  explicit library_job(const run_request& request, const npy_array& query)
      : request_(request),
        threads_(request.threads),
        query_(as_tensor<Scalar>("query", query)),
        key_(read_tensor<Scalar>("key", request.key)),
        value_(read_tensor<Scalar>("value", request.value)),
        out_(result_of<Scalar>(with_width(query_.heads().shape(), value_.heads().width()))),
        log_sum_exp_(result_of<Scalar>(with_width(query_.heads().shape(), 1))) {
    if (!request.mask.empty()) {
      const npy_array mask = read("mask", request.mask);
      if (mask.dtype == attn_test::npy_dtype<bool>()) {
        visible_ = as_tensor<bool>("mask", mask);
      } else {
        bias_ = as_tensor<Scalar>("mask", mask);
      }
    }
    if (!request.out_gradient.empty()) {
      back_ = way_back{read_tensor<Scalar>("out gradient", request.out_gradient),
                       result_of<Scalar>(query_.heads().shape()),
                       result_of<Scalar>(key_.heads().shape()),
                       result_of<Scalar>(value_.heads().shape())};
    }
    inputs_ = {.alignment = request.alignment,
               .executor = threads_.executor(),
               .scale = request.scale,
               .workspace = &workspace_};
    is_one_matrix_ = is_one_matrix();
    forward_ = inputs_;
    forward_.log_sum_exp = log_sum_exp_.heads();
  }

  void call() override {
    if (is_one_matrix_) return call_on_matrices();
    with_mask([&](const auto& mask) {
      if (!back_) return forward(mask, inputs_);
      forward(mask, forward_);
      attn::scaled_dot_product_attention_backward(
          {.key = back_->key.heads(), .query = back_->query.heads(), .value = back_->value.heads()},
          {.log_sum_exp = read_only(log_sum_exp_),
           .out = read_only(out_),
           .out_gradient = read_only(back_->out_gradient)},
          read_only(query_), read_only(key_), read_only(value_), mask, inputs_);
    });
  }

  void write(const std::filesystem::path& folder) override {
    call();
    if (!back_) with_mask([&](const auto& mask) { forward(mask, forward_); });
    bench::write(folder / "out.npy", out_);
    bench::write(folder / "log_sum_exp.npy", log_sum_exp_);
    if (!back_) return;
    bench::write(folder / "query_gradient.npy", back_->query);
    bench::write(folder / "key_gradient.npy", back_->key);
    bench::write(folder / "value_gradient.npy", back_->value);
  }

 private:
  struct way_back {
    tensor<Scalar> out_gradient, query, key, value;
  };

  template <class Element>
  static attn::heads_view<const Element> read_only(const tensor<Element>& t) {
    return t.heads();
  }

  /// Without a mask from a file, a single head goes as matrices, which takes a microsecond less.
  [[nodiscard]] bool is_one_matrix() const {
    const auto one = [](const attn::heads_shape& n) { return n.batch == 1 && n.heads == 1; };
    return request_.mask.empty() && !back_ && one(query_.heads().shape()) &&
           one(key_.heads().shape()) && one(value_.heads().shape());
  }
  void call_on_matrices() {
    with_positions([&](const auto& mask) {
      using matrix = row_major<Scalar>;
      const attn::heads_view<Scalar> out = out_.heads();
      attn::scaled_dot_product_attention_into(
          Eigen::Map<matrix>(out.data(), out.length(), out.width()),
          query_.template view<matrix>(0), key_.template view<matrix>(0),
          value_.template view<matrix>(0), mask, inputs_);
    });
  }

  template <class Mask>
  void forward(const Mask& mask, const attn::options& options) {
    attn::scaled_dot_product_attention_into(out_.heads(), read_only(query_), read_only(key_),
                                            read_only(value_), mask, options);
  }

  /// Calls use(mask) with the mask of the request.
  template <class Use>
  void with_mask(const Use& use) const {
    if (visible_) return with_window(use, read_only(*visible_));
    if (bias_) return with_window(use, read_only(*bias_));
    with_positions(use);
  }
  template <class Use>
  void with_positions(const Use& use) const {
    if (request_.window) return use(window());
    if (request_.causal) return use(attn::causal());
    use(attn::none());
  }
  template <class Use, class Mask>
  void with_window(const Use& use, const Mask& mask) const {
    if (request_.window || request_.causal) return use(window() & mask);
    use(mask);
  }
  [[nodiscard]] attn::sliding_window window() const {
    const run_window w = request_.window.value_or(run_window{attn::unbounded, 0});
    return {w.left, w.right};
  }

  run_request request_;
  bool is_one_matrix_ = false;
  waiting_threads threads_;
  attn::workspace workspace_;
  attn::options inputs_, forward_;
  tensor<Scalar> query_, key_, value_, out_, log_sum_exp_;
  std::optional<tensor<bool>> visible_;
  std::optional<tensor<Scalar>> bias_;
  std::optional<way_back> back_;
};

/// Head by head, a head a task.
template <class Scalar>
class naive_job : public run_job {
 public:
  explicit naive_job(const run_request& request, const npy_array& query)
      : threads_(request.threads),
        query_(as_tensor<Scalar>("query", query)),
        key_(read_tensor<Scalar>("key", request.key)),
        value_(read_tensor<Scalar>("value", request.value)),
        out_(result_of<Scalar>(query_.heads().shape())) {
    if (!request.mask.empty()) bias_ = read_tensor<Scalar>("mask", request.mask);
    check(request);
    mask_.causal = request.causal || request.window;
    if (request.window) mask_.left = request.window->left;
    if (bias_) mask_.bias = bias_->data();
  }

  void call() override {
    const attn::heads_shape q = query_.heads().shape();
    const attn::heads_shape k = key_.heads().shape();
    const index group = q.heads / k.heads;
    threads_.executor()(q.batch * q.heads, attn::task([&](index head) {
                          const index key_head = head / group;
                          naive_attention(query_.head(head), key_.head(key_head),
                                          value_.head(key_head), out_.head(head), q.length,
                                          k.length, q.width, mask_);
                        }));
  }

  void write(const std::filesystem::path& folder) override {
    call();
    bench::write(folder / "out.npy", out_);
  }

 private:
  /// Throws unless the plain formula does all that is asked for.
  void check(const run_request& request) const {
    const auto refuse_unless = [](bool fits, const std::string& message) {
      if (!fits) throw std::invalid_argument("naive Eigen " + message);
    };
    const attn::heads_shape q = query_.heads().shape();
    const attn::heads_shape k = key_.heads().shape();
    const bool positional = request.causal || request.window;
    const index offset = request.alignment.offset(q.length, k.length);
    refuse_unless(!request.scale, "has a scale of its own, it takes none");
    refuse_unless(request.out_gradient.empty(), "has no way back");
    refuse_unless(!request.window || request.window->right == 0,
                  "has windows that end at the query's own key, right should be 0");
    refuse_unless(!positional || offset == k.length - q.length,
                  "has the last query at the last key, so the alignment should be bottom_right");
    refuse_unless(!positional || k.length >= q.length,
                  "needs a key for each query, key has " + to_text(k) + ", query " + to_text(q));
    refuse_unless(k == value_.heads().shape() && k.batch == q.batch && k.width == q.width &&
                      k.heads > 0 && q.heads % k.heads == 0 && k.length > 0,
                  "needs keys and values that fit, query has " + to_text(q) + ", key " +
                      to_text(k) + ", value " + to_text(value_.heads().shape()));
    refuse_unless(!bias_ || bias_->heads().shape() == attn::heads_shape{1, 1, q.length, k.length},
                  "takes a mask for all heads, 1 x 1 x queries x keys");
  }

  waiting_threads threads_;
  tensor<Scalar> query_, key_, value_, out_;
  std::optional<tensor<Scalar>> bias_;
  naive_mask<Scalar> mask_;
};

template <class Scalar>
std::unique_ptr<run_job> job_of(const run_request& request, const npy_array& query) {
  if (request.naive) return std::make_unique<naive_job<Scalar>>(request, query);
  return std::make_unique<library_job<Scalar>>(request, query);
}

}  // namespace

std::unique_ptr<run_job> make_job(const run_request& request) {
  const npy_array query = read("query", request.query);
  if (query.dtype == attn_test::npy_dtype<double>()) return job_of<double>(request, query);
  if (query.dtype == attn_test::npy_dtype<float>()) return job_of<float>(request, query);
  throw std::invalid_argument("query in " + request.query.string() + " has dtype " + query.dtype +
                              ", it should have <f4 or <f8");
}

}  // namespace bench
