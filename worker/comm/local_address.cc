#include "worker/comm/local_address.h"

#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace longhaul::worker::comm {
namespace {

// The text of a socket's address without its port; empty if it is of another family than IP.
std::string Numeric(const sockaddr* address, socklen_t size) {
  char text[NI_MAXHOST] = "";
  if (getnameinfo(address, size, text, sizeof(text), nullptr, 0, NI_NUMERICHOST) != 0) return "";
  return text;
}

bool IsWildcard(const sockaddr* address) {
  if (address->sa_family == AF_INET) {
    return reinterpret_cast<const sockaddr_in*>(address)->sin_addr.s_addr == htonl(INADDR_ANY);
  }
  return IN6_IS_ADDR_UNSPECIFIED(&reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr);
}

// 0, or why a socket cannot be bound to it.
int BindError(const sockaddr* address, socklen_t size) {
  const int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return errno;
  const int error = bind(fd, address, size) == 0 ? 0 : errno;
  close(fd);
  return error;
}

absl::StatusOr<std::string> InterfaceAddress(const std::string& interface) {
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot list network interfaces: ", strerror(errno)));
  }
  const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> owner(all, &freeifaddrs);
  std::string found;
  for (const ifaddrs* entry = all; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr || interface != entry->ifa_name) continue;
    if (entry->ifa_addr->sa_family == AF_INET) {
      return Numeric(entry->ifa_addr, sizeof(sockaddr_in));
    }
    if (entry->ifa_addr->sa_family == AF_INET6 && found.empty()) {
      found = Numeric(entry->ifa_addr, sizeof(sockaddr_in6));
    }
  }
  if (!found.empty()) return found;
  return absl::InvalidArgumentError(
      absl::StrCat("no network interface `", interface, "` with an IP address"));
}

}  // namespace

absl::StatusOr<std::string> LocalAddress(const std::string& host, const std::string& interface) {
  std::string name = host;
  if (!interface.empty()) {
    ASSIGN_OR_RETURN(name, InterfaceAddress(interface));
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(name.c_str(), nullptr, &hints, &found); error != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot resolve host `", name, "`: ", gai_strerror(error)));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, &freeaddrinfo);
  int error = 0;
  for (const addrinfo* entry = found; entry != nullptr; entry = entry->ai_next) {
    if (IsWildcard(entry->ai_addr)) {
      return absl::InvalidArgumentError(
          absl::StrCat("host `", name, "` is no single address that peers could reach"));
    }
    error = BindError(entry->ai_addr, entry->ai_addrlen);
    if (error == 0) return Numeric(entry->ai_addr, entry->ai_addrlen);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("cannot bind to host `", name, "`: ", strerror(error)));
}

}  // namespace longhaul::worker::comm
