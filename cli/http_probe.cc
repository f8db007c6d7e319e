#include "cli/http_probe.h"

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <chrono>

#include "absl/time/time.h"

namespace longhaul::cli {

namespace beast = boost::beast;
namespace http = boost::beast::http;
using boost::asio::ip::tcp;

int HttpStatusOf(const std::string& address, const std::string& path, absl::Duration timeout) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) return 0;
  std::string host = address.substr(0, colon);
  // A server on all interfaces is asked on loopback.
  if (host == "0.0.0.0") host = "127.0.0.1";
  if (host == "[::]") host = "::1";

  boost::asio::io_context context;
  beast::tcp_stream stream(context);
  stream.expires_after(absl::ToChronoMilliseconds(timeout));
  beast::error_code error;
  const auto endpoints = tcp::resolver(context).resolve(host, address.substr(colon + 1), error);
  if (error) return 0;

  http::request<http::empty_body> request(http::verb::get, path, 11);
  request.set(http::field::host, address);
  request.set(http::field::connection, "close");
  http::response<http::string_body> response;
  beast::flat_buffer buffer;
  int status = 0;
  // The timeout of a tcp_stream works for asynchronous operations only.
  stream.async_connect(endpoints, [&](beast::error_code failed, const tcp::endpoint&) {
    if (failed) return;
    http::async_write(stream, request, [&](beast::error_code write_failed, size_t) {
      if (write_failed) return;
      http::async_read(stream, buffer, response, [&](beast::error_code read_failed, size_t) {
        if (!read_failed) status = static_cast<int>(response.result_int());
      });
    });
  });
  context.run();
  return status;
}

}  // namespace longhaul::cli
