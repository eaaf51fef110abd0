# cmake [-D OUTPUT=build/single_include/attn/attn.hpp] -P cmake/single_header.cmake
# Writes all of the library as one header, which needs Eigen alone and is included in the same way.
cmake_minimum_required(VERSION 3.24)

set(folder ${CMAKE_CURRENT_LIST_DIR}/../include)
set(open "#include <attn/")
if(NOT OUTPUT)
  set(OUTPUT ${CMAKE_CURRENT_LIST_DIR}/../build/single_include/attn/attn.hpp)
endif()

# Appends a file, with what it includes of the library in the place of each such line: a header where
# it is included first, and a piece of the engine (.inl) wherever it is.
function(append path)
  if(NOT EXISTS ${folder}/${path})
    message(FATAL_ERROR "single header: there is no ${path} in ${folder}")
  endif()
  if(path MATCHES "\\.hpp$")
    get_property(seen GLOBAL PROPERTY seen)
    if(path IN_LIST seen)
      return()
    endif()
    set_property(GLOBAL APPEND PROPERTY seen ${path})
  endif()
  file(READ ${folder}/${path} text)
  string(REPLACE "#pragma once\n" "" text "${text}")
  set(depth 0)
  string(FIND "${text}" "${open}" at)
  while(at GREATER_EQUAL 0)
    string(SUBSTRING "${text}" 0 ${at} before)
    file(APPEND ${OUTPUT} "${before}")
    string(SUBSTRING "${text}" ${at} -1 text)
    string(REGEX MATCH "^#include <(attn/[^>]+)>[^\n]*\n" line "${text}")
    set(included ${CMAKE_MATCH_1})
    string(LENGTH "${line}" length)
    string(SUBSTRING "${text}" ${length} -1 text)

    # A header that only some builds include would be missing wherever else it is asked for.
    string(REGEX MATCHALL "\n#(if|endif)" conditions "\n${before}")
    foreach(condition IN LISTS conditions)
      if(condition MATCHES "endif")
        math(EXPR depth "${depth} - 1")
      else()
        math(EXPR depth "${depth} + 1")
      endif()
    endforeach()
    if(depth GREATER 0 AND included MATCHES "\\.hpp$")
      message(FATAL_ERROR "single header: ${path} includes ${included} under a condition")
    endif()

    append(${included})
    string(FIND "${text}" "${open}" at)
  endwhile()
  file(APPEND ${OUTPUT} "${text}")
endfunction()

file(READ ${CMAKE_CURRENT_LIST_DIR}/../LICENSE license)
string(STRIP "${license}" license)
string(REPLACE "\n" "\n// " license "${license}")
string(REPLACE "// \n" "//\n" license "${license}")
file(WRITE ${OUTPUT} "// All of attn as one header, which cmake/single_header.cmake wrote.
// It needs Eigen alone and is included as the library is: by <attn/attn.hpp>.
//
// ${license}
#pragma once

")
append(attn/attn.hpp)
append(attn/onnx_attention.hpp)
