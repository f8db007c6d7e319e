longhaul_library(kernel_testing
  HEADERS kernel_testing.h paged_cache.h tolerances.h
  DEPS    longhaul::kernels GTest::gtest)
