// Documents are numbered, not measured.
#include <attn/attn.hpp>

attn::documents call(const std::vector<double>& ids) {
#ifdef REFUSED
  attn::documents documents(ids);
#endif
  return attn::documents(std::vector<int>(ids.begin(), ids.end()));
}
