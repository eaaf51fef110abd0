// Compile time and memory of the library's header, by the compiler that this program was built
// with.
#pragma once

#include <benchmark/benchmark.h>

#include <string>

namespace bench {

/// Compiles compiled_file.cpp with `what` defined (EIGEN_CORE, INCLUDE or ONE_CALL), flag by flag
/// as a user would. Seconds are those of the iteration; counter: compiler_peak_bytes.
void compile(benchmark::State& state, const std::string& what, const std::string& flags);

}  // namespace bench
