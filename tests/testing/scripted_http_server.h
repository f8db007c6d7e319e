#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <thread>

namespace longhaul::testing {

// A server on 127.0.0.1 that takes one connection after the other, reads a request, and sends
// exactly the bytes that its script says. Plain sockets and a thread of its own.
class ScriptedHttpServer {
 public:
  struct Request {
    std::string head;  // request line and fields
    std::string body;  // Content-Length bytes
  };
  struct Answer {
    std::string bytes;       // as they go out
    bool stay_open = false;  // silence after them, until the client closes
  };
  using Script = std::function<Answer(const Request&)>;  // called on the server's thread

  explicit ScriptedHttpServer(Script script);
  ~ScriptedHttpServer();
  ScriptedHttpServer(const ScriptedHttpServer&) = delete;
  ScriptedHttpServer& operator=(const ScriptedHttpServer&) = delete;

  std::string address() const;  // "127.0.0.1:port"
  int num_requests() const { return num_requests_; }

  // A whole response with a Content-Length; `fields` are lines, each with its CRLF.
  static std::string Response(int status, const std::string& body, const std::string& fields = "");

 private:
  void Run();
  void Serve(int fd);

  const Script script_;
  int listen_fd_ = -1;
  int port_ = 0;
  std::atomic<int> num_requests_ = 0;
  std::atomic<bool> stopping_ = false;
  std::thread thread_;
};

}  // namespace longhaul::testing
