#include "tests/fuzz/http_answers.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "common/logging.h"

namespace longhaul::fuzz {
namespace {

using Json = nlohmann::json;

// Up to and with `end`, taken off `bytes`; nullopt if it is not there.
std::optional<std::string_view> TakeUntil(std::string_view& bytes, std::string_view end) {
  const size_t at = bytes.find(end);
  if (at == bytes.npos) return std::nullopt;
  const std::string_view taken = bytes.substr(0, at + end.size());
  bytes.remove_prefix(taken.size());
  return taken;
}

using Headers = std::map<std::string, std::string, std::less<>>;

int ReadHead(std::string_view head, Headers& headers) {
  CHECK((head.starts_with("HTTP/1.1 ") || head.starts_with("HTTP/1.0 ")) && head.size() > 13)
      << head;
  int status = 0;
  std::from_chars(head.data() + 9, head.data() + 12, status);
  CHECK(status >= 100 && status <= 599 && head[12] == ' ') << head;
  TakeUntil(head, "\r\n");
  while (head != "\r\n") {
    std::string_view line = TakeUntil(head, "\r\n").value();
    line.remove_suffix(2);
    for (const char c : line) CHECK(c == '\t' || static_cast<unsigned char>(c) >= 0x20) << line;
    const size_t colon = line.find(": ");
    CHECK(colon != line.npos && colon > 0) << line;
    std::string name(line.substr(0, colon));
    std::ranges::transform(name, name.begin(), [](unsigned char c) { return std::tolower(c); });
    CHECK(headers.emplace(name, line.substr(colon + 2)).second) << name << " is there twice";
  }
  return status;
}

// The body of a chunked response; nullopt if it is cut.
std::optional<std::string> TakeChunks(std::string_view& bytes) {
  std::string body;
  while (true) {
    const auto line = TakeUntil(bytes, "\r\n");
    if (!line.has_value()) return std::nullopt;
    size_t size = 0;
    const auto parsed = std::from_chars(line->data(), line->data() + line->size(), size, 16);
    CHECK(parsed.ptr == line->data() + line->size() - 2) << *line;
    if (bytes.size() < size + 2) return std::nullopt;
    body += bytes.substr(0, size);
    CHECK(bytes.substr(size, 2) == "\r\n");
    bytes.remove_prefix(size + 2);
    if (size == 0) return body;
  }
}

void CheckEvents(std::string_view stream, bool is_cut) {
  bool done = false;
  while (!stream.empty()) {
    auto event = TakeUntil(stream, "\n\n");
    if (!event.has_value() && is_cut) return;
    CHECK(event.has_value()) << "an event without its end: " << stream;
    event->remove_suffix(2);
    CHECK(event->find_first_of("\r\n") == event->npos) << *event;
    if (event->starts_with(":")) continue;
    CHECK(!done && event->starts_with("data: ")) << *event;
    event->remove_prefix(6);
    done = *event == "[DONE]";
    if (!done) CHECK(Json::accept(*event)) << *event;
  }
  CHECK(done || is_cut) << "the stream ends without [DONE]";
}

}  // namespace

void CheckHttpAnswers(std::string_view bytes, bool may_be_cut) {
  while (!bytes.empty()) {
    const auto head = TakeUntil(bytes, "\r\n\r\n");
    if (!head.has_value()) {
      CHECK(may_be_cut) << bytes;
      return;
    }
    Headers headers;
    const int status = ReadHead(*head, headers);
    if (status == 100 || status == 204) continue;
    CHECK(headers.contains("x-request-id") && headers.contains("content-type")) << *head;
    const bool is_stream = headers["content-type"].starts_with("text/event-stream");
    std::optional<std::string> body;
    if (headers.contains("content-length")) {
      CHECK(!headers.contains("transfer-encoding")) << *head;
      const std::string& text = headers["content-length"];
      size_t length = 0;
      CHECK(std::from_chars(text.data(), text.data() + text.size(), length).ec == std::errc());
      // The answer to HEAD announces what does not come.
      const bool no_body = bytes.empty() || bytes.starts_with("HTTP/1.");
      if (no_body) continue;
      if (bytes.size() >= length) {
        body = std::string(bytes.substr(0, length));
        bytes.remove_prefix(length);
      }
    } else if (headers.contains("transfer-encoding")) {
      CHECK(headers["transfer-encoding"] == "chunked") << *head;
      std::string_view rest = bytes;
      body = TakeChunks(rest);
      if (body.has_value()) bytes = rest;
    } else {
      CHECK(headers["connection"] == "close") << *head;
      body = std::string(bytes);
      bytes = {};
      if (is_stream) CheckEvents(*body, may_be_cut);
      continue;
    }
    if (!body.has_value()) {
      CHECK(may_be_cut) << "cut: " << *head << bytes;
      return;
    }
    if (is_stream) CheckEvents(*body, /*is_cut=*/false);
    if (headers["content-type"].starts_with("application/json")) {
      CHECK(Json::accept(*body)) << *body;
    }
    if (status >= 400 && status != 503) {
      CHECK(Json::parse(*body)["error"]["message"].is_string()) << *body;
    }
  }
}

}  // namespace longhaul::fuzz
