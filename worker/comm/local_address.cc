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
#include <vector>

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

// An interface with an IP address of its; one with several occurs several times.
struct Interface {
  std::string name;
  std::string address;
  bool is_ipv4 = false;
};

absl::StatusOr<std::vector<Interface>> Interfaces() {
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot list network interfaces: ", strerror(errno)));
  }
  const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> owner(all, &freeifaddrs);
  std::vector<Interface> interfaces;
  for (const ifaddrs* entry = all; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr) continue;
    const sa_family_t family = entry->ifa_addr->sa_family;
    if (family != AF_INET && family != AF_INET6) continue;
    const socklen_t size = family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
    interfaces.push_back({entry->ifa_name, Numeric(entry->ifa_addr, size), family == AF_INET});
  }
  return interfaces;
}

absl::StatusOr<std::string> InterfaceAddress(const std::string& name) {
  ASSIGN_OR_RETURN(const std::vector<Interface> interfaces, Interfaces());
  std::string found;
  for (const Interface& interface : interfaces) {
    if (interface.name != name) continue;
    if (interface.is_ipv4) return interface.address;
    if (found.empty()) found = interface.address;
  }
  if (!found.empty()) return found;
  return absl::InvalidArgumentError(
      absl::StrCat("no network interface `", name, "` with an IP address"));
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

absl::StatusOr<std::string> LocalInterface(const std::string& host, const std::string& interface) {
  ASSIGN_OR_RETURN(const std::string address, LocalAddress(host, interface));
  if (!interface.empty()) return interface;
  ASSIGN_OR_RETURN(const std::vector<Interface> interfaces, Interfaces());
  for (const Interface& candidate : interfaces) {
    if (candidate.address == address) return candidate.name;
  }
  // Such as 127.0.0.2, which belongs to an interface by its network.
  return absl::InvalidArgumentError(
      absl::StrCat("host `", host, "` is ", address,
                   ", which no network interface has: name the interface instead"));
}

}  // namespace longhaul::worker::comm
