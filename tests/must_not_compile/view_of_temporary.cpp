// The view would refer to a matrix that is gone.
#include <attn/attn.hpp>

attn::index call() {
#ifdef REFUSED
  return attn::split_heads(Eigen::MatrixXf(4, 8), 2).width();
#else
  Eigen::MatrixXf kept(4, 8);
  return attn::split_heads(kept, 2).width();
#endif
}
