# Language level, optimisation, sanitizers, compiler cache: what every target of ours is compiled with.
include(FeatureSummary)

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -DNDEBUG")

# Folders of this build share one cache: paths below the checkout are made relative before hashing.
find_program(LONGHAUL_CCACHE ccache)
if(LONGHAUL_CCACHE)
  foreach(lang C CXX)
    set(CMAKE_${lang}_COMPILER_LAUNCHER
        ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=1
        ${LONGHAUL_CCACHE})
  endforeach()
endif()
add_feature_info(ccache LONGHAUL_CCACHE "compiler cache")

if(LONGHAUL_SANITIZER)
  add_compile_options(-fsanitize=${LONGHAUL_SANITIZER} -fno-omit-frame-pointer -g1)
  add_link_options(-fsanitize=${LONGHAUL_SANITIZER})
  # For test runs: what tests/sanitizers/tsan.supp says, and a report is a failure.
  set(LONGHAUL_SANITIZER_ENVIRONMENT
      "TSAN_OPTIONS=suppressions=${CMAKE_SOURCE_DIR}/tests/sanitizers/tsan.supp ignore_noninstrumented_modules=1 halt_on_error=0 exitcode=66"
      "UBSAN_OPTIONS=print_stacktrace=1")
  if(LONGHAUL_SANITIZER MATCHES undefined)
    add_compile_options(-fno-sanitize-recover=undefined)
  endif()
endif()

# Warnings go to our own targets only (see targets.cmake), never to users of our headers.
set(LONGHAUL_WARNINGS -Wall -Wextra -Wconversion -Wno-sign-conversion -Wshadow=local
    -Wnon-virtual-dtor -Woverloaded-virtual
    -Wno-missing-field-initializers)  # designated initialisers leave defaults out on purpose
if(CMAKE_CXX_COMPILER_ID MATCHES Clang)
  list(REMOVE_ITEM LONGHAUL_WARNINGS -Wshadow=local)
  list(APPEND LONGHAUL_WARNINGS -Wshadow -Wthread-safety -Werror=thread-safety)
else()
  # GCC 12 reports these for inlined standard-library code (GCC bugs 105329, 105562, 107852).
  list(APPEND LONGHAUL_WARNINGS -Wno-restrict -Wno-maybe-uninitialized -Wno-stringop-overflow
       -Wno-array-bounds)
endif()
if(LONGHAUL_WERROR)
  list(APPEND LONGHAUL_WARNINGS -Werror)
endif()
