// The mask would refer to lengths that are gone.
#include <array>
#include <attn/attn.hpp>
#include <type_traits>
#include <vector>

static_assert(!std::is_constructible_v<attn::key_padding, std::array<int, 2>>);
static_assert(std::is_constructible_v<attn::key_padding, std::array<int, 2>&>);
static_assert(std::is_constructible_v<attn::key_padding, attn::integers>);

bool call() {
#ifdef REFUSED
  const auto mask = attn::key_padding(std::vector<int>{3, 4});
#else
  const std::vector<int> lengths{3, 4};
  const auto mask = attn::key_padding(lengths);
#endif
  return mask.visible({});
}
