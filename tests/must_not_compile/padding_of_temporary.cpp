// The mask would refer to lengths that are gone.
#include <attn/attn.hpp>
#include <vector>

bool call() {
#ifdef REFUSED
  const auto mask = attn::key_padding(std::vector<int>{3, 4});
#else
  const std::vector<int> lengths{3, 4};
  const auto mask = attn::key_padding(lengths);
#endif
  return mask.visible({});
}
