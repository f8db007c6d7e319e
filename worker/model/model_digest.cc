#include "worker/model/model_digest.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/sip_hash.h"
#include "common/status_macros.h"
#include "worker/model/checkpoint.h"

namespace longhaul::worker::model {
namespace {

// A tensor's sample: this many windows, evenly spread from its first byte to its last.
constexpr uint64_t kWindows = 4;
constexpr uint64_t kWindowBytes = 2048;

// Length first, so that no two lists of texts give the same bytes.
void UpdateText(SipHasher& hash, std::string_view text) {
  hash.UpdateWord(text.size());
  hash.Update(text);
}

void UpdateSample(SipHasher& hash, std::span<const uint8_t> data) {
  if (data.size() <= kWindows * kWindowBytes) {
    hash.Update(data);
    return;
  }
  const uint64_t last = data.size() - kWindowBytes;
  for (uint64_t window = 0; window + 1 < kWindows; ++window) {
    hash.Update(data.subspan(last / (kWindows - 1) * window, kWindowBytes));
  }
  hash.Update(data.subspan(last, kWindowBytes));
}

absl::StatusOr<std::string> ReadFile(const std::string& model_dir, const std::string& name) {
  const std::string path = (std::filesystem::path(model_dir) / name).string();
  std::ifstream file(path, std::ios::binary);
  std::ostringstream content;
  if (!file || !(content << file.rdbuf())) {
    return absl::NotFoundError(absl::StrCat(path, ": cannot be read"));
  }
  return content.str();
}

}  // namespace

absl::StatusOr<Digest> ModelDigest(const std::string& model_dir) {
  ASSIGN_OR_RETURN(const std::string config, ReadFile(model_dir, "config.json"));
  ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::Open(model_dir));
  SipHasher hash(Digest{});
  UpdateText(hash, "longhaul model digest 1");
  UpdateText(hash, config);
  for (const auto& [name, entry] : checkpoint.entries()) {
    UpdateText(hash, name);
    UpdateText(hash, StoredTypeName(entry.tensor->type));
    hash.UpdateWord(entry.tensor->shape.size());
    for (const int64_t dimension : entry.tensor->shape) {
      hash.UpdateWord(static_cast<uint64_t>(dimension));
    }
    UpdateSample(hash, entry.tensor->data);
  }
  // Version 1 has the two words in this machine's order, not in the published one.
  const Digest digest = hash.Finish();
  return Digest{.high = __builtin_bswap64(digest.high), .low = __builtin_bswap64(digest.low)};
}

absl::StatusOr<Digest> DummyModelDigest(const std::string& model_dir) {
  ASSIGN_OR_RETURN(const std::string config, ReadFile(model_dir, "config.json"));
  const absl::StatusOr<std::string> tokenizer = ReadFile(model_dir, "tokenizer.json");
  SipHasher hash(Digest{});
  UpdateText(hash, "longhaul dummy model digest 1");
  UpdateText(hash, config);
  UpdateText(hash, tokenizer.ok() ? *tokenizer : "");
  return hash.Finish();
}

}  // namespace longhaul::worker::model
