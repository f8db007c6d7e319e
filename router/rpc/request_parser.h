#pragma once

#include <google/protobuf/message.h>

#include <cstdint>
#include <string_view>

#include "absl/status/status.h"

// From a client's bytes to a protobuf message, with an error that says what is wrong with them: a
// message's own parser says only that something is. Pure.
namespace longhaul::router::rpc {

// Messages within messages, groups included. Protobuf's own default.
inline constexpr int kMaxMessageDepth = 100;
// Fields of a request, those of its messages included; a packed list counts once. A field of two
// bytes may become an object of a hundred.
inline constexpr int64_t kMaxRequestFields = 1 << 20;

// Fills `request`, which must be empty. Fields that its type does not know are skipped.
// Errors: InvalidField naming the field, as "messages[1].content", and the byte: a string that is
// not UTF-8, a length beyond the end, too many fields or levels. `request` is then unspecified.
absl::Status ParseRequest(std::string_view bytes, google::protobuf::Message& request);

}  // namespace longhaul::router::rpc
