# A leader that needs no model, a router without frontends, a sink that records.
longhaul_library(router_testing
  HEADERS fake_worker.h recording_sink.h router_stack.h
  SOURCES fake_worker.cc
  DEPS longhaul::testing longhaul::router
  PRIVATE_DEPS longhaul::proto third_party::grpc)

# A router with its gRPC side, and a client of that.
longhaul_library(router_rpc_testing
  HEADERS grpc_fixture.h
  DEPS longhaul::router_testing longhaul::router_rpc longhaul::proto third_party::grpc)

include(${CMAKE_CURRENT_LIST_DIR}/rest.cmake)
