# What tests, examples and benchmarks have in common.

function(attn_warnings target)
  target_compile_options(
    ${target} PRIVATE -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror)
  # g++ 12 takes what its AVX-512 header leaves undefined on purpose for a mistake, where Eigen
  # multiplies with -march=native.
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
    target_compile_options(${target} PRIVATE -Wno-error=maybe-uninitialized)
  endif()
endfunction()

# Has a target use the engine that all tests share, where there are tests: it takes longer to compile
# than all the rest of a program.
function(attn_share_engine target)
  if(ATTN_BUILD_TESTS)
    target_link_libraries(${target} PRIVATE attn_test_engine)
  endif()
endfunction()

# How tests are compiled. -O3 would take twice as long.
function(attn_test_settings target)
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  target_link_libraries(${target} PRIVATE attn::attn attn_catch2)
  attn_share_engine(${target})
  target_compile_options(${target} PRIVATE $<$<CONFIG:Release>:-O2>)
  attn_warnings(${target})
endfunction()

# attn_add_test(NAME [OWN_HEADERS] SOURCES a.cpp b.cpp [LIBS ...])
# A Catch2 program and the test NAME that runs it. OWN_HEADERS: it includes Eigen in a way of its own,
# LIBS bring flags that change it, or tests/ comes later.
function(attn_add_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "OWN_HEADERS" "" "SOURCES;LIBS")
  add_executable(${name} ${arg_SOURCES})
  attn_test_settings(${name})
  target_link_libraries(${name} PRIVATE ${arg_LIBS})
  if(NOT arg_OWN_HEADERS)
    target_precompile_headers(${name} REUSE_FROM attn_test_headers)
  endif()
  add_test(NAME ${name} COMMAND ${name})
endfunction()

# attn_add_example(NAME SOURCES a.cpp [LIBS ...] [ARGS ...] EXPECT "regex" ["regex" ...])
# A program in build/examples, and the test example.NAME: it succeeds and prints what each regex asks for, in order.
function(attn_add_example name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;LIBS;ARGS;EXPECT")
  add_executable(${name} ${arg_SOURCES})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/examples)
  target_link_libraries(${name} PRIVATE attn::attn ${arg_LIBS})
  attn_share_engine(${name})
  attn_warnings(${name})
  add_test(NAME example.${name}
           COMMAND ${CMAKE_COMMAND} -P ${PROJECT_SOURCE_DIR}/cmake/expect.cmake --
                   $<TARGET_FILE:${name}> ${arg_ARGS} EXPECT ${arg_EXPECT})
endfunction()
