# longhaul_library, longhaul_program, longhaul_test, longhaul_fuzz: targets that carry the edges of the house.
#
# A target's headers are reachable only through an include directory of its own,
# <build>/headers/<target>, a tree of links to exactly the headers it lists. A target sees its own
# headers and those of its DEPS, so an include along an edge that does not exist does not compile
# (proved by tests/layering).
include(GNUInstallDirs)

function(longhaul_link_headers target)
  set(root ${CMAKE_BINARY_DIR}/headers/${target})
  file(REMOVE_RECURSE ${root})
  file(RELATIVE_PATH folder ${CMAKE_SOURCE_DIR} ${CMAKE_CURRENT_SOURCE_DIR})
  foreach(header IN LISTS ARGN)
    if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${header})
      message(FATAL_ERROR "${target}: header ${folder}/${header} does not exist")
    endif()
    get_filename_component(dir ${root}/${folder}/${header} DIRECTORY)
    file(MAKE_DIRECTORY ${dir})
    file(CREATE_LINK ${CMAKE_CURRENT_SOURCE_DIR}/${header} ${root}/${folder}/${header} SYMBOLIC)
  endforeach()
endfunction()

# longhaul_library(NAME HEADERS h... [DEVICE_HEADERS cuh...] SOURCES cc... DEPS targets... [PRIVATE_DEPS targets...])
# Makes the library and its alias longhaul::NAME. Each header must compile by itself (checked by the
# target all_headers); headers with code for CUDA devices are the library's own and compiled with it.
function(longhaul_library name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "HEADERS;DEVICE_HEADERS;SOURCES;DEPS;PRIVATE_DEPS")
  if(arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "longhaul_library(${name}): unknown ${arg_UNPARSED_ARGUMENTS}")
  endif()
  longhaul_link_headers(${name} ${arg_HEADERS} ${arg_DEVICE_HEADERS})
  set(include_dir ${CMAKE_BINARY_DIR}/headers/${name})
  if(arg_SOURCES)
    add_library(${name} STATIC ${arg_SOURCES})
    set(scope PUBLIC)
    target_compile_options(${name} PRIVATE
                           $<$<COMPILE_LANGUAGE:CXX>:${LONGHAUL_WARNINGS}>)
    target_link_libraries(${name} PRIVATE ${arg_PRIVATE_DEPS})
  else()
    add_library(${name} INTERFACE)
    set(scope INTERFACE)
  endif()
  target_include_directories(${name} ${scope} ${include_dir})
  target_link_libraries(${name} ${scope} ${arg_DEPS})
  add_library(longhaul::${name} ALIAS ${name})

  # Self-contained headers: one translation unit a header, only on request.
  set(checks)
  foreach(header IN LISTS arg_HEADERS)
    string(MAKE_C_IDENTIFIER ${header} id)
    file(RELATIVE_PATH folder ${CMAKE_SOURCE_DIR} ${CMAKE_CURRENT_SOURCE_DIR})
    set(check ${CMAKE_BINARY_DIR}/header_checks/${name}/${id}.cc)
    set(text "#include \"${folder}/${header}\"  // NOLINT: checks that the header stands alone\n")
    if(NOT EXISTS ${check})
      file(WRITE ${check} ${text})
    endif()
    list(APPEND checks ${check})
  endforeach()
  if(checks)
    add_library(${name}_headers OBJECT EXCLUDE_FROM_ALL ${checks})
    target_link_libraries(${name}_headers PRIVATE ${name} ${arg_PRIVATE_DEPS})
    target_compile_options(${name}_headers PRIVATE
                           $<$<COMPILE_LANGUAGE:CXX>:${LONGHAUL_WARNINGS}>)
    set_property(GLOBAL APPEND PROPERTY LONGHAUL_HEADER_CHECKS ${name}_headers)
  endif()
endfunction()

# longhaul_program(NAME SOURCES cc... DEPS targets...): a binary in <build>/bin.
function(longhaul_program name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;DEPS")
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE ${arg_DEPS})
  target_compile_options(${name} PRIVATE ${LONGHAUL_WARNINGS})
  install(TARGETS ${name} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endfunction()

# longhaul_test(NAME SOURCES cc... DEPS targets... LABELS labels... [TIMEOUT seconds])
# A GoogleTest binary, run by CTest as one test. Tests that carry the label slow run with --slow
# only. LONGHAUL_SOURCE_DIR and LONGHAUL_BIN_DIR are given to the test in its environment.
function(longhaul_test name)
  if(NOT LONGHAUL_TESTS)
    return()
  endif()
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "TIMEOUT" "SOURCES;DEPS;LABELS;ARGS")
  string(REPLACE "/" "_" target ${name})
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 120)
  endif()
  if(NOT TARGET ${target})
    add_executable(${target} ${arg_SOURCES})
    set_target_properties(${target} PROPERTIES
                          RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
    target_link_libraries(${target} PRIVATE ${arg_DEPS} GTest::gmock GTest::gtest_main)
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:${LONGHAUL_WARNINGS}>)
  endif()
  add_test(NAME ${name} COMMAND ${target} ${arg_ARGS})
  set_tests_properties(${name} PROPERTIES LABELS "${arg_LABELS}" TIMEOUT ${arg_TIMEOUT}
    ENVIRONMENT "LONGHAUL_SOURCE_DIR=${CMAKE_SOURCE_DIR};LONGHAUL_BIN_DIR=${CMAKE_BINARY_DIR}/bin;${LONGHAUL_SANITIZER_ENVIRONMENT}")
endfunction()

# longhaul_fuzz(NOUN DEPS targets...): the program NOUN_fuzz from NOUN_fuzz.cc, part of the target
# `fuzz`. With libFuzzer (preset fuzz) it fuzzes; without, it replays the files it is given. CTest
# runs it over corpus/NOUN either way.
function(longhaul_fuzz noun)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "DEPS")
  set(target ${noun}_fuzz)
  set(corpus ${CMAKE_CURRENT_SOURCE_DIR}/corpus/${noun})
  add_executable(${target} ${noun}_fuzz.cc)
  set_target_properties(${target} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/fuzz)
  target_link_libraries(${target} PRIVATE ${arg_DEPS} longhaul::fuzz_testing)
  target_compile_options(${target} PRIVATE ${LONGHAUL_WARNINGS})
  if(LONGHAUL_SANITIZER MATCHES fuzzer)
    target_link_options(${target} PRIVATE -fsanitize=fuzzer)
    set(arguments -runs=0)
  else()
    target_sources(${target} PRIVATE replay_main.cc)
  endif()
  add_dependencies(fuzz ${target})
  add_test(NAME fuzz/${noun} COMMAND ${target} ${arguments} ${corpus})
  set_tests_properties(fuzz/${noun} PROPERTIES LABELS unit TIMEOUT 60
                       ENVIRONMENT "${LONGHAUL_SANITIZER_ENVIRONMENT}")
endfunction()
