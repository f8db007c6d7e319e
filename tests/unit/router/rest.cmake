# The REST side.
foreach(name json_fault openai_codec openai_encoder gunzip rest_sink http_gateway http_session
             rest_call)
  longhaul_test(router/${name}_test SOURCES ${name}_test.cc LABELS unit
    DEPS longhaul::router_rest longhaul::testing_rest third_party::nlohmann_json
         third_party::zlib)
endforeach()
