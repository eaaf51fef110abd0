// The engine that the tests' programs share: built with ATTN_ENGINE_HERE.
#include <attn/attention.hpp>
