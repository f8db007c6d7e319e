#pragma once

#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace longhaul::testing {

// One response as it came: the status, headers with lower-case names, the body with its chunks put
// together.
struct RawHttpResponse {
  int status = 0;
  std::map<std::string, std::string> headers = {};
  std::string body = {};
  bool complete = false;  // the end that the framing announced was seen
};

// A TCP connection to 127.0.0.1 that sends exactly the bytes it is told to, and reads what comes
// with a time limit. Plain sockets, so that it shares no code with the server.
class RawHttpClient {
 public:
  explicit RawHttpClient(int port, int receive_buffer_bytes = 0);
  ~RawHttpClient();
  RawHttpClient(const RawHttpClient&) = delete;
  RawHttpClient& operator=(const RawHttpClient&) = delete;

  // False if the server closed.
  bool Send(std::string_view bytes);
  // Reads until `marker` is in what was read and returns everything up to and with it; what came
  // before the server closed or `timeout` passed otherwise.
  std::string ReadUntil(std::string_view marker,
                        std::chrono::milliseconds timeout = std::chrono::seconds(5));
  RawHttpResponse ReadResponse(std::chrono::milliseconds timeout = std::chrono::seconds(5));
  // True if the server ends the connection (and sends nothing before).
  bool WaitForClose(std::chrono::milliseconds timeout = std::chrono::seconds(5));
  void Close();
  // Sends no more, and still reads.
  void CloseSending();

 private:
  // Appends what is there to buffer_; false at the end of the connection or at `deadline`.
  bool Fill(std::chrono::steady_clock::time_point deadline);

  int socket_ = -1;
  std::string buffer_;
  bool ended_ = false;
};

// A request with a Content-Length and `headers` (lines that end in \r\n).
std::string HttpPost(std::string_view path, std::string_view body, std::string_view headers = "");
std::string HttpGet(std::string_view path);

}  // namespace longhaul::testing
