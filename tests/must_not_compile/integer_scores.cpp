// Scores are no integers.
#include <attn/attn.hpp>

Eigen::MatrixXf call(const Eigen::MatrixXi& s) {
#ifdef REFUSED
  attn::scale(s, 0.5);
#endif
  return attn::scale(s.cast<float>(), 0.5);
}
