// The engine, in reading order. Included once per instruction set, after its vectors.
// clang-format off: the order matters
#include <attn/kernel/engine/exp2.inl>
#include <attn/kernel/engine/tile_product.inl>
#include <attn/kernel/engine/transpose.inl>
#include <attn/kernel/engine/mask_tile.inl>
#include <attn/kernel/engine/online_softmax.inl>
#include <attn/kernel/engine/dropout.inl>
#include <attn/kernel/engine/block.inl>
#include <attn/kernel/engine/forward.inl>
#include <attn/kernel/engine/row_product.inl>
#include <attn/kernel/engine/decode.inl>
#include <attn/kernel/engine/product.inl>
#include <attn/kernel/engine/gradient_block.inl>
#include <attn/kernel/engine/backward.inl>
#include <attn/kernel/engine/tangent.inl>
#include <attn/kernel/engine/change_gradient.inl>
// clang-format on
