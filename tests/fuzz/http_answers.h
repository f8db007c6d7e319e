#pragma once

#include <string_view>

namespace longhaul::fuzz {

// Everything a server sent on one connection is a sequence of HTTP/1.1 responses: known status
// lines, well-formed headers, bodies of the announced length, JSON that parses, event streams of
// nothing but comments and events whose data is JSON or, once and last, [DONE]. `may_be_cut`: the
// last one may end anywhere. Aborts where this does not hold. Shares no code with the server.
void CheckHttpAnswers(std::string_view bytes, bool may_be_cut);

}  // namespace longhaul::fuzz
