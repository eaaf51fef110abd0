// The machine's limit for what attention mostly does: fused multiply-adds, independent of each
// other and of memory, in the widest instruction set that runs here (or a lower one, where the
// environment variable ATTN_INSTRUCTION_SET names one).
#pragma once

#include <algorithm>
#include <cstddef>
#include <string_view>
#include <utility>
#include <vector>

namespace bench {

/// The instruction set that `fma_peak` uses: avx512, avx2, neon or portable.
std::string_view fma_instruction_set();

/// FLOP/s of one thread, two a multiply-add; measured anew by each call, which takes a few
/// milliseconds, since clocks drift. Scalar is float or double.
template <class Scalar>
double fma_peak();

/// What fraction of the peak was reached: the median over stretches of work, each held against the
/// peak right before and after it, since both go up and down with the clock and with whoever else
/// is on the machine.
template <class Scalar>
class fraction_of_peak {
 public:
  explicit fraction_of_peak(int threads) : threads_(threads) {}

  /// After a stretch of work: what it reached, in FLOP/s. Measures the peak meanwhile.
  void add(double reached) {
    const double before = std::exchange(peak_, fma_peak<Scalar>());
    fractions_.push_back(reached / ((before + peak_) / 2 * threads_));
  }

  /// Of the stretches so far, of which there is at least one.
  [[nodiscard]] double median() const {
    std::vector<double> sorted = fractions_;
    const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2);
    std::nth_element(sorted.begin(), middle, sorted.end());
    return *middle;
  }

 private:
  int threads_;
  double peak_ = fma_peak<Scalar>();
  std::vector<double> fractions_;
};

/// The sum of n numbers, n a multiple of 128, as fast as they can be read.
float sum(const float* first, std::ptrdiff_t n);

}  // namespace bench
