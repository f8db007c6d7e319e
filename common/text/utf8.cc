#include "common/text/utf8.h"

#include <cstdint>
#include <cstring>

namespace longhaul::text {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

uint8_t ByteAt(std::string_view bytes, size_t offset) {
  return static_cast<uint8_t>(bytes[offset]);
}

enum class SequenceKind { kWellFormed, kIllFormed, kIncomplete };

struct Sequence {
  SequenceKind kind;
  size_t length;  // of the sequence, or of its maximal ill-formed part; at least 1
};

// The sequence at `offset`. kIncomplete: the bytes end where more could have made it well-formed.
Sequence SequenceAt(std::string_view bytes, size_t offset) {
  const uint8_t lead = ByteAt(bytes, offset);
  if (lead < 0x80) return {SequenceKind::kWellFormed, 1};
  size_t length = 0;
  uint8_t low = 0x80;  // bounds of the second byte: they exclude overlong forms and surrogates
  uint8_t high = 0xBF;
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return {SequenceKind::kIllFormed, 1};
  }
  for (size_t i = 1; i < length; ++i) {
    if (offset + i == bytes.size()) return {SequenceKind::kIncomplete, i};
    const uint8_t byte = ByteAt(bytes, offset + i);
    if (byte < low || byte > high) return {SequenceKind::kIllFormed, i};
    low = 0x80;
    high = 0xBF;
  }
  return {SequenceKind::kWellFormed, length};
}

// Skips ASCII eight bytes at a time: most text is nothing else.
size_t SkipAscii(std::string_view bytes, size_t offset) {
  constexpr uint64_t kHighBits = 0x8080808080808080ULL;
  while (offset + sizeof(uint64_t) <= bytes.size()) {
    uint64_t word = 0;
    std::memcpy(&word, bytes.data() + offset, sizeof(word));
    if ((word & kHighBits) != 0) break;
    offset += sizeof(word);
  }
  while (offset < bytes.size() && ByteAt(bytes, offset) < 0x80) ++offset;
  return offset;
}

}  // namespace

size_t FindInvalidUtf8(std::string_view bytes) {
  size_t offset = SkipAscii(bytes, 0);
  while (offset < bytes.size()) {
    const Sequence sequence = SequenceAt(bytes, offset);
    if (sequence.kind != SequenceKind::kWellFormed) return offset;
    offset += sequence.length;
    if (offset < bytes.size() && ByteAt(bytes, offset) < 0x80) offset = SkipAscii(bytes, offset);
  }
  return std::string_view::npos;
}

size_t AppendWellFormed(std::string_view bytes, Continuation continuation, std::string& out) {
  size_t offset = 0;
  while (offset < bytes.size()) {
    const Sequence sequence = SequenceAt(bytes, offset);
    if (sequence.kind == SequenceKind::kWellFormed) {
      out.append(bytes.substr(offset, sequence.length));
    } else if (sequence.kind == SequenceKind::kIncomplete &&
               continuation == Continuation::kMayFollow) {
      return offset;
    } else {
      out.append(kReplacement);
    }
    offset += sequence.length;
  }
  return offset;
}

CodePoint CodePointAt(std::string_view bytes, size_t offset) {
  const char32_t lead = ByteAt(bytes, offset);
  const auto tail = [bytes, offset](size_t i) -> char32_t {
    return ByteAt(bytes, offset + i) & 0x3Fu;
  };
  if (lead < 0x80) return {lead, 1};
  if (lead < 0xE0) return {(lead & 0x1F) << 6 | tail(1), 2};
  if (lead < 0xF0) return {(lead & 0x0F) << 12 | tail(1) << 6 | tail(2), 3};
  return {(lead & 0x07) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3), 4};
}

void AppendCodePoint(char32_t code_point, std::string& out) {
  const auto tail = [code_point](int shift) {
    return static_cast<char>(0x80 | (code_point >> shift & 0x3F));
  };
  if (code_point < 0x80) {
    out.push_back(static_cast<char>(code_point));
  } else if (code_point < 0x800) {
    out.push_back(static_cast<char>(0xC0 | code_point >> 6));
    out.push_back(tail(0));
  } else if (code_point < 0x10000) {
    out.push_back(static_cast<char>(0xE0 | code_point >> 12));
    out.push_back(tail(6));
    out.push_back(tail(0));
  } else {
    out.push_back(static_cast<char>(0xF0 | code_point >> 18));
    out.push_back(tail(12));
    out.push_back(tail(6));
    out.push_back(tail(0));
  }
}

}  // namespace longhaul::text
