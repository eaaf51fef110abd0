// attn: scaled dot-product attention over Eigen. Everything public.
#pragma once

#include <attn/additive_attention.hpp>
#include <attn/attention.hpp>
#include <attn/block_mask.hpp>
#include <attn/config.hpp>
#include <attn/executor.hpp>
#include <attn/kernel/instruction_set.hpp>
#include <attn/mask.hpp>
#include <attn/math.hpp>
#include <attn/multi_head_attention.hpp>
#include <attn/options.hpp>
#include <attn/position.hpp>
#include <attn/projection.hpp>
#include <attn/score_mod.hpp>
#include <attn/stages.hpp>
#include <attn/version.hpp>
#include <attn/workspace.hpp>
