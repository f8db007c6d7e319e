longhaul_library(testing_http_server
  HEADERS scripted_http_server.h
  SOURCES scripted_http_server.cc
  DEPS longhaul::common)
