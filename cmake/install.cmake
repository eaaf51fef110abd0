# cmake --install: headers, the CMake package and the pkg-config file, all relocatable.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(package_dir ${CMAKE_INSTALL_DATADIR}/cmake/attn)

install(TARGETS attn EXPORT attn-targets
        FILE_SET HEADERS DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
        FILE_SET pieces DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
        INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}) # for a CMake that knows no file sets
install(EXPORT attn-targets NAMESPACE attn:: DESTINATION ${package_dir})

write_basic_package_version_file(
  ${PROJECT_BINARY_DIR}/attn-config-version.cmake COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES ${PROJECT_SOURCE_DIR}/cmake/attn-config.cmake
              ${PROJECT_BINARY_DIR}/attn-config-version.cmake
        DESTINATION ${package_dir})

# The prefix is written relative to the .pc file, so that the tree can be moved.
set(pkgconfig_dir ${CMAKE_INSTALL_DATADIR}/pkgconfig)
file(RELATIVE_PATH prefix_from_pc ${CMAKE_INSTALL_FULL_DATADIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
string(REGEX REPLACE "/$" "" prefix_from_pc ${prefix_from_pc})
cmake_path(IS_ABSOLUTE CMAKE_INSTALL_INCLUDEDIR absolute)
if(absolute)
  set(pc_include_dir ${CMAKE_INSTALL_INCLUDEDIR})
else()
  set(pc_include_dir "\${prefix}/${CMAKE_INSTALL_INCLUDEDIR}")
endif()
configure_file(${PROJECT_SOURCE_DIR}/cmake/attn.pc.in ${PROJECT_BINARY_DIR}/attn.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/attn.pc DESTINATION ${pkgconfig_dir})
