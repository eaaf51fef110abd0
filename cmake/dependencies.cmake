# Each dependency is a target that exists already, else the installed package, else fetched at a fixed commit.
include(FetchContent)

# The headers of a target that was fetched count as a system's, as those of a package do: no warnings.
function(attn_as_system target)
  get_target_property(dirs ${target} INTERFACE_INCLUDE_DIRECTORIES)
  set_target_properties(${target} PROPERTIES INTERFACE_SYSTEM_INCLUDE_DIRECTORIES "${dirs}")
endfunction()

# Eigen 3.4 or later, 5 included. Eigen 3.4's version file refuses ranges, hence the comparison here.
function(attn_find_eigen)
  if(TARGET Eigen3::Eigen)
    return()
  endif()
  find_package(Eigen3 CONFIG QUIET GLOBAL)
  if(Eigen3_FOUND)
    if(Eigen3_VERSION VERSION_LESS 3.4)
      message(FATAL_ERROR "attn needs Eigen 3.4 or later, found ${Eigen3_VERSION} in ${Eigen3_DIR}")
    endif()
    message(STATUS "Eigen ${Eigen3_VERSION}: ${Eigen3_DIR}")
    return()
  endif()
  # Headers only: Eigen's own build, with its tests and documentation, stays out (there is no such SOURCE_SUBDIR).
  FetchContent_Declare(attn_eigen
    GIT_REPOSITORY https://gitlab.com/libeigen/eigen.git
    GIT_TAG 3147391d946bb4b6c68edd901f2add6ac1f31f8c # 3.4.0
    SOURCE_SUBDIR headers-only)
  FetchContent_MakeAvailable(attn_eigen)
  add_library(Eigen3::Eigen INTERFACE IMPORTED GLOBAL)
  target_include_directories(Eigen3::Eigen INTERFACE ${attn_eigen_SOURCE_DIR})
endfunction()

# attn_catch2: Catch2 2 or 3 with its main. Version 2 comes without a compiled main in most packages,
# and where one is compiled for another machine the package's is of no use: then it is built here.
function(attn_find_catch2)
  if(TARGET attn_catch2)
    return()
  endif()
  if(NOT TARGET Catch2::Catch2)
    find_package(Catch2 CONFIG QUIET GLOBAL)
    if(NOT Catch2_FOUND)
      FetchContent_Declare(Catch2
        GIT_REPOSITORY https://github.com/catchorg/Catch2.git
        GIT_TAG fa43b77429ba76c462b1898d6cd2f2d7a9416b14) # 3.7.1
      FetchContent_MakeAvailable(Catch2)
      attn_as_system(Catch2)
    endif()
  endif()
  if(TARGET Catch2::Catch2WithMain AND NOT (Catch2_VERSION VERSION_LESS 3 AND CMAKE_CROSSCOMPILING))
    add_library(attn_catch2 INTERFACE)
    target_link_libraries(attn_catch2 INTERFACE Catch2::Catch2WithMain)
  else()
    file(WRITE ${PROJECT_BINARY_DIR}/catch2_main.cpp
         "#define CATCH_CONFIG_MAIN\n#include <catch2/catch.hpp>\n")
    add_library(attn_catch2 STATIC ${PROJECT_BINARY_DIR}/catch2_main.cpp)
    target_link_libraries(attn_catch2 PUBLIC Catch2::Catch2)
  endif()
endfunction()

function(attn_find_benchmark)
  if(TARGET benchmark::benchmark)
    return()
  endif()
  find_package(benchmark CONFIG QUIET GLOBAL)
  if(NOT benchmark_FOUND)
    set(BENCHMARK_ENABLE_TESTING OFF)
    set(BENCHMARK_ENABLE_INSTALL OFF)
    FetchContent_Declare(benchmark
      GIT_REPOSITORY https://github.com/google/benchmark.git
      GIT_TAG eddb0241389718a23a42db6af5f0164b6e0139af) # 1.9.4
    FetchContent_MakeAvailable(benchmark)
    attn_as_system(benchmark)
  endif()
endfunction()
