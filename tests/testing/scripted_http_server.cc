#include "tests/testing/scripted_http_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <utility>

#include "common/logging.h"

namespace longhaul::testing {
namespace {

constexpr int kPollMs = 20;

}  // namespace

ScriptedHttpServer::ScriptedHttpServer(Script script) : script_(std::move(script)) {
  listen_fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  CHECK(bind(listen_fd_, generic, size) == 0 && listen(listen_fd_, 64) == 0);
  CHECK(getsockname(listen_fd_, generic, &size) == 0);
  port_ = ntohs(address.sin_port);
  thread_ = std::thread([this] { Run(); });
}

ScriptedHttpServer::~ScriptedHttpServer() {
  stopping_ = true;
  thread_.join();
  close(listen_fd_);
}

std::string ScriptedHttpServer::address() const { return "127.0.0.1:" + std::to_string(port_); }

std::string ScriptedHttpServer::Response(int status, const std::string& body,
                                         const std::string& fields) {
  return "HTTP/1.1 " + std::to_string(status) +
         " S\r\nContent-Length: " + std::to_string(body.size()) + "\r\n" + fields + "\r\n" + body;
}

void ScriptedHttpServer::Run() {
  while (!stopping_) {
    pollfd entry{.fd = listen_fd_, .events = POLLIN, .revents = 0};
    if (poll(&entry, 1, kPollMs) != 1) continue;
    const int fd = accept(listen_fd_, nullptr, nullptr);
    if (fd < 0) continue;
    Serve(fd);
    close(fd);
  }
}

void ScriptedHttpServer::Serve(int fd) {
  std::string text;
  const auto read_some = [&] {
    std::array<char, 65536> piece;
    pollfd entry{.fd = fd, .events = POLLIN, .revents = 0};
    while (!stopping_ && poll(&entry, 1, kPollMs) == 0) {
    }
    const ssize_t size = stopping_ ? 0 : recv(fd, piece.data(), piece.size(), 0);
    if (size > 0) text.append(piece.data(), static_cast<size_t>(size));
    return size > 0;
  };
  size_t head_end = 0;
  while ((head_end = text.find("\r\n\r\n")) == std::string::npos) {
    if (!read_some()) return;
  }
  const std::string head = text.substr(0, head_end);
  const std::string field = "Content-Length: ";
  const size_t length_at = head.find(field);
  const size_t length =
      length_at == std::string::npos ? 0 : std::stoul(head.substr(length_at + field.size()));
  while (text.size() < head_end + 4 + length) {
    if (!read_some()) return;
  }
  num_requests_++;
  const Answer answer = script_({.head = head, .body = text.substr(head_end + 4)});
  send(fd, answer.bytes.data(), answer.bytes.size(), MSG_NOSIGNAL);
  while (answer.stay_open && read_some()) {
  }
}

}  // namespace longhaul::testing
