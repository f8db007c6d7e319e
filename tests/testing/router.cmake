longhaul_library(router_testing
  HEADERS fake_worker.h
  SOURCES fake_worker.cc
  DEPS longhaul::testing
  PRIVATE_DEPS longhaul::proto third_party::grpc)
