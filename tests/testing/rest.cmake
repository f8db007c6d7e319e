longhaul_library(testing_rest
  HEADERS fake_intake.h raw_http_client.h
  SOURCES fake_intake.cc raw_http_client.cc
  DEPS longhaul::testing longhaul::router_core)
