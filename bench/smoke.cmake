# cmake -D BENCH=attn_bench -D COUNTS_MEMORY=1 -P smoke.cmake
# The names that figures are quoted by exist, once each; the small benchmarks run, agree with the
# reference, and have their counters.
cmake_minimum_required(VERSION 3.24)

execute_process(
  COMMAND ${BENCH} --benchmark_list_tests OUTPUT_VARIABLE names COMMAND_ERROR_IS_FATAL ANY)
foreach(name
        forward/float/1x8x512x64/none/threads:1
        forward/float/1x8x1024x64/none/threads:1
        forward/float/1x8x1024x64/none/threads:2
        forward/float/1x8x1024x128/none/threads:1
        forward/float/1x8x4096x64/none/threads:1
        forward/float/1x8x4096x128/none/threads:1
        forward/float/1x12x197x64/none/threads:1
        forward/float/1x12x128x64/none/threads:1
        forward/float/1x8x1024x64/causal/threads:1
        forward/float/1x8x4096x128/causal/threads:1
        forward/float/1x8x1024x64/additive/threads:1
        forward/float/1x8x1024x64/boolean/threads:1
        forward/float/1x8x1024x64/alibi/threads:1
        forward/float/1x8x1024x64/lambda/threads:1
        forward/float/1x8x1024x64/softcap/threads:1
        forward/float/1x8x1024x64/column_major/threads:1
        forward/float/1x1x16384x64/window256/threads:1
        forward/double/1x8x1024x64/none/threads:1
        forward/float/1x1x4x8/none/threads:1
        forward/float/1x1x16x8/none/threads:1
        forward/float/1x1x16x64/none/threads:1
        forward/float/1x1x64x64/none/threads:1
        forward/float/1x32:8x1024x128/causal/threads:1
        forward/float/4x8x1024x64/none/threads:1
        forward/float/4x8x1024x64/blhd/threads:1
        forward/float/1x8x1024x64/dropout/threads:1
        backward/float/1x8x1024x64/none/threads:1
        backward/float/1x8x1024x64/none/threads:2
        backward/float/1x8x2048x64/causal/threads:1
        backward/float/1x8x2048x128/none/threads:1
        backward/float/2x8x1024x64/bias/threads:1
        backward/float/2x8x1024x64/bias_gradient/threads:1
        backward/double/1x8x1024x64/none/threads:1
        packed/float/16x8x1024x64/none/threads:1/manual_time
        decode/float/1x32:8x1:8192x128/contiguous/threads:1
        decode/float/1x32:8x1:8192x128/scattered16/threads:1
        decode/float/1x32:8x1:32768x128/paged16/threads:2
        append/float/1x8x1:4096x128/contiguous/threads:1/manual_time
        naive/float/1x1x4x8/none/threads:1
        naive/float/1x1x16x8/none/threads:1
        naive/float/1x1x16x64/none/threads:1
        naive/float/1x1x64x64/none/threads:1)
  string(REGEX MATCHALL "(^|\n)${name}\n" found "${names}")
  list(LENGTH found times)
  if(NOT times EQUAL 1)
    message(SEND_ERROR "${name} is listed ${times} times")
  endif()
endforeach()

# Those of one head and at most 64 rows.
set(filter "/1x1x[0-9][0-9]?x[0-9]+/")
string(REGEX MATCHALL "${filter}" small "${names}")
list(LENGTH small expected)
execute_process(
  COMMAND ${BENCH} --benchmark_filter=${filter} --benchmark_min_time=0.001 --benchmark_format=json
  OUTPUT_VARIABLE report COMMAND_ERROR_IS_FATAL ANY)
string(JSON count LENGTH "${report}" benchmarks)
if(NOT count EQUAL expected OR count LESS 8)
  message(SEND_ERROR "${count} benchmarks ran, ${expected} were to")
endif()

# Reports unless the benchmark has the counter, above `least` and below `most`.
function(expect_counter result name counter least most)
  string(JSON number ERROR_VARIABLE missing GET "${result}" ${counter})
  if(missing)
    message(SEND_ERROR "${name} has no ${counter}")
  elseif(NOT (number GREATER least AND number LESS most))
    message(SEND_ERROR "${name} has ${counter} ${number}, not between ${least} and ${most}")
  endif()
endfunction()

math(EXPR last "${count} - 1")
foreach(i RANGE ${last})
  string(JSON result GET "${report}" benchmarks ${i})
  string(JSON name GET "${result}" name)
  string(JSON error ERROR_VARIABLE runs GET "${result}" error_message)
  if(NOT runs)
    message(SEND_ERROR "${name}: ${error}")
  elseif(name MATCHES "^(forward|naive|score|weighted_sum)/")
    expect_counter("${result}" ${name} GFLOPS 0 1e6)
    expect_counter("${result}" ${name} of_peak 0 1.1)
  else()
    expect_counter("${result}" ${name} Gscores 0 1e3)
  endif()
  if(COUNTS_MEMORY AND runs)
    expect_counter("${result}" ${name} workspace_bytes -1 1e6)
  endif()
endforeach()
message("${count} benchmarks ran")
