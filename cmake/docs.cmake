# The target docs: the reference as pages to browse, in BUILD/docs/html/index.html, by Doxygen. Any
# warning fails it. They need no network: MathJax, which renders the formulas, is copied beside them.
find_package(Doxygen QUIET)
find_path(MATHJAX_DIR NAMES MathJax.js PATHS /usr/share/javascript/mathjax /usr/share/mathjax
          DOC "Folder with MathJax.js, version 2" NO_CMAKE_SYSTEM_PATH)
if(NOT DOXYGEN_FOUND)
  message(FATAL_ERROR "ATTN_BUILD_DOCS needs doxygen (Debian: apt-get install doxygen)")
endif()
if(NOT MATHJAX_DIR)
  message(FATAL_ERROR "ATTN_BUILD_DOCS needs MathJax 2 (Debian: apt-get install libjs-mathjax), or "
                      "MATHJAX_DIR, the folder with its MathJax.js")
endif()

set(DOXYGEN_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/docs)
set(DOXYGEN_GENERATE_LATEX NO)
set(DOXYGEN_WARN_AS_ERROR FAIL_ON_WARNINGS)
set(DOXYGEN_QUIET YES)
set(DOXYGEN_HAVE_DOT NO)

set(DOXYGEN_USE_MDFILE_AS_MAINPAGE README.md)
set(DOXYGEN_IMAGE_PATH ${PROJECT_SOURCE_DIR}/.github)
set(DOXYGEN_EXAMPLE_PATH ${PROJECT_SOURCE_DIR}/examples)
set(DOXYGEN_FILE_PATTERNS *.hpp *.dox *.md)
set(DOXYGEN_EXCLUDE ${PROJECT_SOURCE_DIR}/include/attn/kernel)
set(DOXYGEN_STRIP_FROM_PATH ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR})
set(DOXYGEN_STRIP_FROM_INC_PATH ${PROJECT_SOURCE_DIR}/include)

# What combines masks and score changes has no name that one would write.
set(DOXYGEN_EXCLUDE_SYMBOLS attn::detail attn::detail::* attn::math::detail attn::workspace::lease
    attn::intersection attn::either attn::complement attn::composition)
set(DOXYGEN_INPUT_FILTER "sed -E -f ${PROJECT_SOURCE_DIR}/cmake/doxygen.sed")
set(DOXYGEN_MACRO_EXPANSION YES)
set(DOXYGEN_PREDEFINED _OPENMP ATTN_INLINE=inline)
set(DOXYGEN_DISTRIBUTE_GROUP_DOC YES)
set(DOXYGEN_JAVADOC_AUTOBRIEF YES)
set(DOXYGEN_BUILTIN_STL_SUPPORT YES)
set(DOXYGEN_SORT_MEMBER_DOCS NO)

set(DOXYGEN_SEARCHENGINE YES)
set(DOXYGEN_GENERATE_TREEVIEW YES)
set(DOXYGEN_TOC_INCLUDE_HEADINGS 2)
set(DOXYGEN_USE_MATHJAX YES)
set(DOXYGEN_MATHJAX_VERSION MathJax_2)
set(DOXYGEN_MATHJAX_FORMAT SVG) # without fonts, which browsers may not load from files
set(DOXYGEN_MATHJAX_RELPATH mathjax)

doxygen_add_docs(docs include/attn cmake/reference.dox README.md .github/guide .github/CHANGELOG.md .github/CONTRIBUTING.md
                 WORKING_DIRECTORY ${PROJECT_SOURCE_DIR} COMMENT "Reference: ${PROJECT_BINARY_DIR}/docs/html/index.html")
set(copy_mathjax "")
foreach(part config extensions jax/element jax/input/TeX jax/output/SVG)
  list(APPEND copy_mathjax COMMAND ${CMAKE_COMMAND} -E copy_directory ${MATHJAX_DIR}/${part}
              ${PROJECT_BINARY_DIR}/docs/html/mathjax/${part})
endforeach()
add_custom_command(TARGET docs POST_BUILD ${copy_mathjax}
                   COMMAND ${CMAKE_COMMAND} -E copy_if_different ${MATHJAX_DIR}/MathJax.js
                           ${PROJECT_BINARY_DIR}/docs/html/mathjax)
