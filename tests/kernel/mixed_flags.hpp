// One function a build: they hand each other nothing but raw pointers.
#pragma once

namespace mixed_flags {

// Causal attention of row-major matrices of rows x width numbers.
using attend = void(const float* q, const float* k, const float* v, int rows, int width,
                    float* out);
attend plain, avx2, avx512;

}  // namespace mixed_flags
