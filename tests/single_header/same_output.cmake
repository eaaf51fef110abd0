# cmake -D ORDINARY=command -D SINGLE=command -P same_output.cmake
# Fails unless both commands succeed and print the same.
cmake_minimum_required(VERSION 3.24)

foreach(program ORDINARY SINGLE)
  execute_process(COMMAND ${${program}} OUTPUT_VARIABLE ${program}_output RESULT_VARIABLE result
                  ERROR_VARIABLE error)
  string(LENGTH "${${program}_output}" length)
  if(NOT result EQUAL 0 OR length LESS 1000)
    message(FATAL_ERROR "${${program}}: ${result}, ${length} characters\n${error}")
  endif()
endforeach()
if(NOT ORDINARY_output STREQUAL SINGLE_output)
  message(FATAL_ERROR "the single header computes other bits:\n${SINGLE_output}\nthan the headers:\n${ORDINARY_output}")
endif()
