# The REST side: works against intake.h, knows neither gRPC nor the cluster.
longhaul_library(router_rest
  HEADERS body_budget.h decode_pool.h gunzip.h http_exchange.h http_gateway.h http_head.h
          http_options.h http_reply.h http_session.h json_fault.h json_fields.h openai_codec.h
          openai_encoder.h openai_error.h output_stream.h request_body.h rest_call.h
          rest_routes.h rest_sink.h sse_writer.h
  SOURCES decode_pool.cc gunzip.cc http_gateway.cc http_head.cc http_reply.cc http_session.cc
          json_fault.cc json_fields.cc openai_codec.cc openai_encoder.cc openai_error.cc
          output_stream.cc request_body.cc rest_call.cc rest_routes.cc rest_sink.cc
          sse_writer.cc
  DEPS    longhaul::router_core longhaul::common longhaul::text third_party::simdjson
          third_party::boost third_party::prometheus
  PRIVATE_DEPS third_party::nlohmann_json third_party::zlib)
target_compile_definitions(router_rest PRIVATE LONGHAUL_VERSION="${PROJECT_VERSION}")
# Asio's fences repeat what its mutexes order already; ThreadSanitizer does not understand fences.
if(LONGHAUL_SANITIZER MATCHES thread)
  target_compile_definitions(router_rest PUBLIC BOOST_ASIO_DISABLE_FENCED_BLOCK)
endif()
