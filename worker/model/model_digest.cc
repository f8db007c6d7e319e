#include "worker/model/model_digest.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "worker/model/checkpoint.h"
#include "worker/model/sip_hash.h"

namespace longhaul::worker::model {
namespace {

// A tensor's sample: this many windows, evenly spread from its first byte to its last.
constexpr uint64_t kWindows = 4;
constexpr uint64_t kWindowBytes = 2048;

void UpdateNumber(SipHash128& hash, uint64_t number) {
  hash.Update({reinterpret_cast<const uint8_t*>(&number), sizeof(number)});
}

// Length first, so that no two lists of texts give the same bytes.
void UpdateText(SipHash128& hash, std::string_view text) {
  UpdateNumber(hash, text.size());
  hash.Update({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
}

void UpdateSample(SipHash128& hash, std::span<const uint8_t> data) {
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

}  // namespace

absl::StatusOr<Digest> ModelDigest(const std::string& model_dir) {
  const std::string config_path = (std::filesystem::path(model_dir) / "config.json").string();
  std::ifstream file(config_path, std::ios::binary);
  std::ostringstream config;
  if (!file || !(config << file.rdbuf())) {
    return absl::NotFoundError(absl::StrCat(config_path, ": cannot be read"));
  }
  ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::Open(model_dir));
  SipHash128 hash(0, 0);
  UpdateText(hash, "longhaul model digest 1");
  UpdateText(hash, config.str());
  for (const auto& [name, entry] : checkpoint.entries()) {
    UpdateText(hash, name);
    UpdateText(hash, StoredTypeName(entry.tensor->type));
    UpdateNumber(hash, entry.tensor->shape.size());
    for (const int64_t dimension : entry.tensor->shape) {
      UpdateNumber(hash, static_cast<uint64_t>(dimension));
    }
    UpdateSample(hash, entry.tensor->data);
  }
  return hash.Finish();
}

}  // namespace longhaul::worker::model
