#include "router/rest/http_reply.h"

#include <boost/beast/http/status.hpp>

#include "absl/strings/str_cat.h"

namespace longhaul::router::rest {
namespace {

std::string StatusLine(int status, const HttpFraming& framing) {
  const auto reason = boost::beast::http::obsolete_reason(
      boost::beast::http::int_to_status(static_cast<unsigned>(status)));
  return absl::StrCat(
      framing.http_1_1 ? "HTTP/1.1 " : "HTTP/1.0 ", status, " ", std::string(reason),
      "\r\nServer: longhaul\r\nX-Request-Id: ", framing.request_id, "\r\n", framing.cors);
}

// What the version does not imply already.
std::string_view ConnectionLine(const HttpFraming& framing) {
  if (framing.keep_alive) return framing.http_1_1 ? "" : "Connection: keep-alive\r\n";
  return "Connection: close\r\n";
}

}  // namespace

std::string SerializeReply(const HttpReply& reply, const HttpFraming& framing) {
  std::string text = StatusLine(reply.status, framing);
  if (reply.status != 204) {
    absl::StrAppend(&text, "Content-Type: ", reply.content_type,
                    "\r\nContent-Length: ", reply.body.size(), "\r\n");
  }
  for (const auto& [name, value] : reply.headers) {
    absl::StrAppend(&text, name, ": ", value, "\r\n");
  }
  text += ConnectionLine(framing);
  text += "\r\n";
  if (!framing.head_only) text += reply.body;
  return text;
}

std::string SerializeStreamHead(const HttpFraming& framing) {
  std::string text = StatusLine(200, framing);
  text += "Content-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n";
  text += "X-Accel-Buffering: no\r\n";  // nginx would hold the events back
  if (framing.http_1_1) text += "Transfer-Encoding: chunked\r\n";
  text += ConnectionLine(framing);
  text += "\r\n";
  return text;
}

}  // namespace longhaul::router::rest
