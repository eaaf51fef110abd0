# Compiles `source` with REFUSED defined, which must fail with output that matches `message`, and
# without it, which must succeed.
cmake_minimum_required(VERSION 3.24)

separate_arguments(flags UNIX_COMMAND "${flags}")
string(REPLACE "|" ";" includes "${includes}")
list(TRANSFORM includes PREPEND "-I")
set(command ${compiler} ${flags} -std=c++20 -fsyntax-only ${includes})

execute_process(COMMAND ${command} ${source} RESULT_VARIABLE failed ERROR_VARIABLE output)
if(failed)
  message(FATAL_ERROR "${source} must compile without REFUSED:\n${output}")
endif()

execute_process(COMMAND ${command} -DREFUSED ${source} RESULT_VARIABLE failed ERROR_VARIABLE output)
if(NOT failed)
  message(FATAL_ERROR "${source} must not compile with REFUSED")
endif()
if(NOT output MATCHES "${message}")
  message(FATAL_ERROR "${source} is refused, but not with \"${message}\":\n${output}")
endif()
