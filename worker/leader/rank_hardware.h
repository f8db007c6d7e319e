#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace longhaul::worker::leader {

// What a rank says it computes on (rank.proto, Register), fit for logs and files: at most 128
// characters, what is not printable ASCII replaced by '?'.
std::string PrintableHardware(std::string_view said);

// The hardware of a group, ranks in order: "4 x H200", "H200 + 2 x H100". Empty if any rank said
// nothing.
std::string GroupHardware(const std::vector<std::string>& ranks);

}  // namespace longhaul::worker::leader
