#include "common/text/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "common/logging.h"
#include "common/text/utf8.h"

namespace longhaul::text {
namespace {

// Below it nothing combines with what stands before it, and every code point is its own NFC.
constexpr char32_t kFirstSuspect = 0x300;
constexpr char32_t kHangulSyllablesBegin = 0xAC00;
constexpr char32_t kHangulSyllablesEnd = 0xD7A4;

// The jamo that combine with the syllable before them: vowels and final consonants. (Not U+11A7,
// one below the consonants: utf8proc 2.8 loses it when it follows a syllable.)
bool IsConjoiningJamo(char32_t c) {
  return (c >= 0x1161 && c <= 0x1175) || (c >= 0x11A8 && c <= 0x11C2);
}

struct CodePointRange {
  char32_t first;
  char32_t last;
};
// Marks that Unicode 10 to 15 added. Hugging Face normalizes by the tables of Unicode 9, to which
// they are unknown: they neither move nor combine, and so it must be here for its ids.
constexpr std::array<CodePointRange, 37> kNewerMarks = {{
    {0x07FD, 0x07FD},   {0x0898, 0x089F},   {0x08CA, 0x08D3},   {0x09FE, 0x09FE},
    {0x0C3C, 0x0C3C},   {0x0D3B, 0x0D3C},   {0x0EBA, 0x0EBA},   {0x1715, 0x1715},
    {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},   {0xA82C, 0xA82C},   {0x10D24, 0x10D27},
    {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85},
    {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E}, {0x11839, 0x1183A},
    {0x11930, 0x11930}, {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0},
    {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D42},
    {0x11D44, 0x11D45}, {0x11D97, 0x11D97}, {0x11F41, 0x11F42}, {0x16FF0, 0x16FF1},
    {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF},
    {0x1E4EC, 0x1E4EF},
}};

bool IsNewerMark(char32_t c) {
  const auto range = std::ranges::lower_bound(kNewerMarks, c, {}, &CodePointRange::last);
  return range != kNewerMarks.end() && range->first <= c;
}

// True if `c` alone, and before or after any other code point that is inert too, is NFC: it does
// not decompose, is no mark and combines with nothing before it. (Marks stand for "may combine with
// what is before": that is too many, and costs time only.)
bool IsInert(char32_t c) {
  if (c < kFirstSuspect) return true;
  if (c >= kHangulSyllablesBegin && c < kHangulSyllablesEnd) return true;
  if (IsConjoiningJamo(c)) return false;
  const utf8proc_property_t* property = utf8proc_get_property(static_cast<utf8proc_int32_t>(c));
  if (property->combining_class != 0 || property->category == UTF8PROC_CATEGORY_MN ||
      property->category == UTF8PROC_CATEGORY_MC || property->category == UTF8PROC_CATEGORY_ME) {
    return IsNewerMark(c);
  }
  const bool canonical = property->decomp_type == 0;
  return !(canonical && property->decomp_seqindex != UINT16_MAX);
}

uint16_t CombiningClass(utf8proc_int32_t c) {
  const auto combining_class = static_cast<uint16_t>(utf8proc_get_property(c)->combining_class);
  return combining_class != 0 && IsNewerMark(static_cast<char32_t>(c)) ? 0 : combining_class;
}

// utf8proc's own ordering is quadratic in the length of a run of marks, so runs are sorted here.
void SortMarks(std::vector<utf8proc_int32_t>& code_points) {
  auto it = code_points.begin();
  while (it != code_points.end()) {
    if (CombiningClass(*it) == 0) {
      ++it;
      continue;
    }
    const auto end = std::find_if(it, code_points.end(),
                                  [](utf8proc_int32_t c) { return CombiningClass(c) == 0; });
    std::stable_sort(it, end, [](utf8proc_int32_t a, utf8proc_int32_t b) {
      return CombiningClass(a) < CombiningClass(b);
    });
    it = end;
  }
}

void AppendNormalized(std::string_view stretch, std::string& out) {
  constexpr auto kDecompose = static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | UTF8PROC_STABLE);
  constexpr auto kCompose = static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE);
  std::vector<utf8proc_int32_t> code_points;
  code_points.reserve(stretch.size() / 2 + 1);
  for (size_t offset = 0; offset < stretch.size();) {
    const CodePoint c = CodePointAt(stretch, offset);
    std::array<utf8proc_int32_t, 8> parts;  // 4 is the longest canonical decomposition
    int boundary_class = 0;
    const utf8proc_ssize_t count =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c.value), parts.data(),
                                std::ssize(parts), kDecompose, &boundary_class);
    CHECK(count >= 0 && count <= std::ssize(parts)) << "count=" << count;
    code_points.insert(code_points.end(), parts.begin(), parts.begin() + count);
    offset += c.length;
  }
  SortMarks(code_points);
  const utf8proc_ssize_t length = utf8proc_normalize_utf32(
      code_points.data(), static_cast<utf8proc_ssize_t>(code_points.size()), kCompose);
  CHECK(length >= 0) << "length=" << length;
  for (utf8proc_ssize_t i = 0; i < length; ++i) {
    AppendCodePoint(static_cast<char32_t>(code_points[static_cast<size_t>(i)]), out);
  }
}

}  // namespace

std::optional<std::string> NormalizeNfc(std::string_view text) {
  std::string out;
  size_t copied = 0;        // text before it is in `out`, normalized
  size_t last_starter = 0;  // the last inert code point: what follows may combine with it
  size_t offset = 0;
  while (offset < text.size()) {
    if (static_cast<uint8_t>(text[offset]) < 0x80) {
      last_starter = offset++;
      continue;
    }
    CodePoint c = CodePointAt(text, offset);
    if (IsInert(c.value)) {
      last_starter = offset;
      offset += c.length;
      continue;
    }
    size_t end = offset;
    do {
      end += c.length;
      if (end == text.size()) break;
      c = CodePointAt(text, end);
    } while (!IsInert(c.value));
    out.append(text.substr(copied, last_starter - copied));
    AppendNormalized(text.substr(last_starter, end - last_starter), out);
    copied = end;
    last_starter = end;
    offset = end;
  }
  if (copied == 0) return std::nullopt;
  out.append(text.substr(copied));
  return out;
}

}  // namespace longhaul::text
