// A rotary embedding works in place.
#include <attn/attn.hpp>

void call(const attn::rotary_embedding& rotary, const Eigen::MatrixXf& x) {
#ifdef REFUSED
  rotary(x, {.offset = 3});
#else
  Eigen::MatrixXf copy = x;
  rotary(copy, {.offset = 3});
#endif
}
