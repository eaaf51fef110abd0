# find_package(attn): the target attn::attn, and Eigen (3.4 or later, 5 included), which it needs.
include(CMakeFindDependencyMacro)

# Without a version, since Eigen 3.4's version file refuses both ranges and 5; the comparison is here.
if(NOT TARGET Eigen3::Eigen)
  find_dependency(Eigen3 CONFIG)
  if(Eigen3_VERSION VERSION_LESS 3.4)
    set(attn_FOUND FALSE)
    set(attn_NOT_FOUND_MESSAGE "attn needs Eigen 3.4 or later, found ${Eigen3_VERSION} in ${Eigen3_DIR}")
    return()
  endif()
endif()

find_dependency(Threads)
include(${CMAKE_CURRENT_LIST_DIR}/attn-targets.cmake)
