// attn: scaled dot-product attention over Eigen. Everything public.
#pragma once

#include <attn/attention.hpp>
#include <attn/config.hpp>
#include <attn/executor.hpp>
#include <attn/mask.hpp>
#include <attn/options.hpp>
#include <attn/position.hpp>
#include <attn/score_mod.hpp>
#include <attn/stages.hpp>
#include <attn/version.hpp>
