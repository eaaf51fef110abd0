// What each build of mixed_flags_part.cpp gives: they hand each other no type of the library's.
#pragma once

#include <array>

namespace mixed_flags {

// Causal attention of row-major matrices of rows x width numbers.
using attend = void(const float* q, const float* k, const float* v, int rows, int width,
                    float* out);

struct build {
  const char* name;
  attend* run;
  std::array<const void*, 4> functions;  // the library's, as this build has them
};

build plain(), aborts(), next(), avx2(), avx512();

}  // namespace mixed_flags
