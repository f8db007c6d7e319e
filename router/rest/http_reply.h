#pragma once

#include <string>
#include <utility>
#include <vector>

namespace longhaul::router::rest {

// A whole HTTP response before framing. Value type.
struct HttpReply {
  int status = 200;
  std::string content_type = "application/json";
  std::string body = {};
  std::vector<std::pair<std::string, std::string>> headers = {};  // besides type and length
};

// How the head of a response is framed on its connection.
struct HttpFraming {
  bool http_1_1 = true;
  bool keep_alive = true;
  bool head_only = false;  // answer to HEAD: the length of a body that is not sent
  std::string request_id;  // X-Request-Id, printable ASCII
  std::string cors = {};   // CorsPolicy::HeaderLines
};

// Head and body as they go over the wire. A 204 has neither type nor length.
std::string SerializeReply(const HttpReply& reply, const HttpFraming& framing);

// The head of a text/event-stream, chunked for HTTP/1.1, until the end of the connection otherwise.
std::string SerializeStreamHead(const HttpFraming& framing);

}  // namespace longhaul::router::rest
