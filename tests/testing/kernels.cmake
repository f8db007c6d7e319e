longhaul_library(kernel_testing
  HEADERS kernel_testing.h paged_cache.h tolerances.h
  DEPS    longhaul::kernels GTest::gtest)

# For tests of kernels_cuda; cudart is linked statically, so that a test's binary runs on any
# machine with a driver.
if(LONGHAUL_HAVE_CUDA)
  longhaul_library(cuda_testing
    HEADERS cuda_testing.h device_cache.h
    DEPS    longhaul::kernel_testing longhaul::kernels_cuda CUDA::cudart_static)
  longhaul_library(decode_chain
    HEADERS decode_chain.h
    DEPS    longhaul::kernels_cuda)
endif()
