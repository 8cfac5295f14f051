# How every target of the project is compiled, and the helpers with which folders declare theirs.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)  # plugins lie beside the programs that open them
set(CMAKE_BUILD_RPATH_USE_ORIGIN ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
set(CMAKE_CXX_FLAGS_RELEASE "-O2")  # asserts stay on: a broken invariant must not be served

find_program(SESSA_CCACHE ccache)
if(SESSA_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${SESSA_CCACHE})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${SESSA_CCACHE})
endif()

find_package(Threads REQUIRED)
find_package(absl REQUIRED)
if(SESSA_TESTS)
  find_package(GTest REQUIRED)
  include(GoogleTest)
endif()

add_library(sessa_options INTERFACE)
target_include_directories(sessa_options INTERFACE ${CMAKE_SOURCE_DIR})
# Flags and failed checks name files from the root of the sources on.
target_compile_options(sessa_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fmacro-prefix-map=${CMAKE_SOURCE_DIR}/=>)
# No fused multiply-add behind our back: results must not depend on how the compiler groups a sum.
target_compile_options(sessa_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wno-sign-compare -Wno-missing-field-initializers -ffp-contract=off -fno-math-errno>)

# sessa_add_folder(NAME): adds a folder of the tree.
function(sessa_add_folder name)
  if(EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${name}/CMakeLists.txt)
    add_subdirectory(${name})
  endif()
endfunction()

# sessa_library(NAME SOURCES... DEPS...): a static library of this project.
function(sessa_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPS" ${ARGN})
  add_library(${name} STATIC ${arg_SOURCES})
  target_link_libraries(${name} PUBLIC sessa_options ${arg_DEPS})
endfunction()

# sessa_program(NAME SOURCES... DEPS...): a program in build/bin.
function(sessa_program name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE sessa_options ${arg_DEPS})
endfunction()

# sessa_add_test(NAME COMMAND... [TIMEOUT SECONDS] [LABELS...] [ENVIRONMENT...]): one ctest entry, run from the source
# root. The timeout only ends what hangs. Daemons of tests listen on loopback, so no proxy may stand before that.
function(sessa_add_test name)
  cmake_parse_arguments(arg "" "TIMEOUT" "COMMAND;LABELS;ENVIRONMENT" ${ARGN})
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT ${SESSA_TEST_TIMEOUT})
  endif()
  list(PREPEND arg_ENVIRONMENT SESSA_BUILD_DIR=${CMAKE_BINARY_DIR})
  add_test(NAME ${name} COMMAND ${arg_COMMAND} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${arg_TIMEOUT} LABELS "${arg_LABELS}"
    ENVIRONMENT "${arg_ENVIRONMENT}"
    ENVIRONMENT_MODIFICATION "no_proxy=string_prepend:127.0.0.1,localhost,::1,")
endfunction()

# sessa_test(NAME SOURCES... DEPS... [TIMEOUT SECONDS] [LABELS...]): one GoogleTest program, one ctest entry.
function(sessa_test name)
  cmake_parse_arguments(arg "" "TIMEOUT" "SOURCES;DEPS;LABELS" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE sessa_options ${arg_DEPS} GTest::gmock GTest::gtest_main)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  sessa_add_test(${name} COMMAND ${name} TIMEOUT ${arg_TIMEOUT} LABELS ${arg_LABELS})
endfunction()
