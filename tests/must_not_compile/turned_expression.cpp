// A rotary embedding works in place, with tables of cosines and sines too.
#include <attn/attn.hpp>

void call(const Eigen::MatrixXf& x, const Eigen::MatrixXf& cos, const Eigen::MatrixXf& sin) {
#ifdef REFUSED
  attn::apply_rotary(2 * x, cos, sin);
#else
  Eigen::MatrixXf doubled = 2 * x;
  attn::apply_rotary(doubled, cos, sin);
#endif
}
