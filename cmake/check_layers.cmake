# cmake -D HEADERS=include/attn -P check_layers.cmake
# A header includes only what stands below it, the kernel knows no Eigen, and no file is long.
cmake_minimum_required(VERSION 3.24)

set(longest 420)

# From the bottom up. A new header takes its place here; `kernel` is the whole folder, which in turn
# includes only what `kernel_knows` names.
set(layers version config position dropout math dual workspace executor held_matrix integers heads stored_keys
           memory_overlap mask_matrix mask block_mask score_mod derivative growing_cache kv_cache page_pool paged_cache
           output input kernel options call_outputs stages rotary kernel_call attention heads_call gradient_call
           heads_attention varlen gradient tangent cache_attention merge onnx_attention projection
           additive_attention multi_head_attention_gradient multi_head_attention attn)
set(kernel_knows kernel config position dropout)

file(REAL_PATH ${HEADERS} folder)
file(GLOB_RECURSE files RELATIVE ${folder} ${folder}/*.hpp ${folder}/*.inl)
if(NOT files)
  message(FATAL_ERROR "no headers in ${folder}")
endif()

set(faults "")
foreach(file IN LISTS files)
  file(READ ${folder}/${file} text)
  string(REGEX MATCHALL "\n" newlines "${text}")
  list(LENGTH newlines length)
  if(length GREATER longest)
    list(APPEND faults "${file} has ${length} lines, at most ${longest} are allowed")
  endif()

  string(REGEX REPLACE "[/.].*" "" layer ${file})
  list(FIND layers ${layer} place)
  if(place LESS 0)
    list(APPEND faults "${file} has no place in the list of layers")
    continue()
  endif()
  list(SUBLIST layers 0 ${place} below)
  if(layer STREQUAL "kernel")
    set(below ${kernel_knows})
    if(text MATCHES "#include *[<\"](unsupported/)?Eigen")
      list(APPEND faults "${file} includes Eigen, which the kernel does not know")
    endif()
  endif()

  string(REGEX MATCHALL "#include *[<\"]attn/[^>\"]*" includes "${text}")
  foreach(include IN LISTS includes)
    string(REGEX REPLACE ".*attn/([a-z_]+).*" "\\1" lower ${include})
    if(NOT lower IN_LIST below)
      list(APPEND faults "${file} includes ${lower}, which does not stand below it")
    endif()
  endforeach()
endforeach()

if(faults)
  list(JOIN faults "\n  " faults)
  message(FATAL_ERROR "layers:\n  ${faults}")
endif()
