#include "tests/testing/raw_http_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <utility>

#include "common/logging.h"

namespace longhaul::testing {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

RawHttpClient::RawHttpClient(int port, int receive_buffer_bytes) {
  socket_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK(socket_ >= 0);
  if (receive_buffer_bytes > 0) {
    setsockopt(socket_, SOL_SOCKET, SO_RCVBUF, &receive_buffer_bytes, sizeof receive_buffer_bytes);
  }
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  CHECK(connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0)
      << "port " << port;
}

RawHttpClient::~RawHttpClient() { Close(); }

void RawHttpClient::Close() {
  if (socket_ >= 0) close(socket_);
  socket_ = -1;
}

void RawHttpClient::CloseSending() { shutdown(socket_, SHUT_WR); }

bool RawHttpClient::Send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

bool RawHttpClient::Fill(steady_clock::time_point deadline) {
  const auto left = std::chrono::duration_cast<milliseconds>(deadline - steady_clock::now());
  pollfd poll_socket = {.fd = socket_, .events = POLLIN, .revents = 0};
  if (poll(&poll_socket, 1, std::max(0, static_cast<int>(left.count()))) <= 0) return false;
  char bytes[16384];
  const ssize_t received = recv(socket_, bytes, sizeof bytes, 0);
  if (received <= 0) {
    ended_ = true;
    return false;
  }
  buffer_.append(bytes, static_cast<size_t>(received));
  return true;
}

std::string RawHttpClient::ReadUntil(std::string_view marker, milliseconds timeout) {
  const auto deadline = steady_clock::now() + timeout;
  size_t found;
  while ((found = buffer_.find(marker)) == buffer_.npos) {
    if (!Fill(deadline)) return std::exchange(buffer_, "");
  }
  const std::string text = buffer_.substr(0, found + marker.size());
  buffer_.erase(0, found + marker.size());
  return text;
}

RawHttpResponse RawHttpClient::ReadResponse(milliseconds timeout) {
  const auto deadline = steady_clock::now() + timeout;
  const auto left = [deadline] {
    return std::chrono::duration_cast<milliseconds>(deadline - steady_clock::now());
  };
  RawHttpResponse response;
  const std::string head = ReadUntil("\r\n\r\n", timeout);
  if (head.size() < 16 || !head.ends_with("\r\n\r\n")) return response;
  response.status = std::stoi(head.substr(9, 3));
  for (size_t line = head.find("\r\n") + 2; line + 2 < head.size();) {
    const size_t end = head.find("\r\n", line);
    const size_t colon = head.find(": ", line);
    std::string name = head.substr(line, colon - line);
    for (char& c : name) c = static_cast<char>(std::tolower(c));
    response.headers[name] = head.substr(colon + 2, end - colon - 2);
    line = end + 2;
  }
  if (response.status == 204) {  // has no body, whatever its headers say
    response.complete = true;
  } else if (response.headers.contains("content-length")) {
    const size_t length = std::stoul(response.headers["content-length"]);
    while (buffer_.size() < length && Fill(deadline)) {
    }
    response.complete = buffer_.size() >= length;
    response.body = buffer_.substr(0, length);
    buffer_.erase(0, length);
  } else if (response.headers.contains("transfer-encoding")) {
    while (true) {
      const std::string size_line = ReadUntil("\r\n", left());
      if (!size_line.ends_with("\r\n")) return response;
      const size_t size = std::stoul(size_line, nullptr, 16);
      while (buffer_.size() < size + 2 && Fill(deadline)) {
      }
      if (buffer_.size() < size + 2) return response;
      response.body += buffer_.substr(0, size);
      buffer_.erase(0, size + 2);
      if (size == 0) break;
    }
    response.complete = true;
  } else {
    while (Fill(deadline)) {
    }
    response.body = std::exchange(buffer_, "");
    response.complete = ended_;
  }
  return response;
}

bool RawHttpClient::WaitForClose(milliseconds timeout) {
  const auto deadline = steady_clock::now() + timeout;
  if (!buffer_.empty()) return false;
  Fill(deadline);
  return ended_ && buffer_.empty();
}

std::string HttpPost(std::string_view path, std::string_view body, std::string_view headers) {
  return "POST " + std::string(path) +
         " HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: " +
         std::to_string(body.size()) + "\r\n" + std::string(headers) + "\r\n" + std::string(body);
}

std::string HttpGet(std::string_view path) {
  return "GET " + std::string(path) + " HTTP/1.1\r\nHost: test\r\n\r\n";
}

}  // namespace longhaul::testing
