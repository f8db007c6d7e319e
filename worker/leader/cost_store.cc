#include "worker/leader/cost_store.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/logging.h"
#include "common/sip_hash.h"
#include "common/status_macros.h"

namespace longhaul::worker::leader {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kVersion = 1;
constexpr size_t kMaxFiles = 64;
constexpr int64_t kMaxFileBytes = 16 << 10;  // they are below 1 KB
constexpr char kSuffix[] = ".cost.json";
// Seconds of a token, a pair of tokens, a unit: a machine as slow as this serves nobody.
constexpr double kMostSeconds = 1e4;
constexpr int64_t kMostTokens = int64_t{1} << 40;

absl::Status SystemError(const std::string& what, const std::string& file, int error) {
  const std::string message = absl::StrCat(what, " ", file, ": ", std::strerror(error));
  if (error == EACCES || error == EPERM || error == EROFS) {
    return absl::PermissionDeniedError(message);
  }
  return error == ENOENT ? absl::NotFoundError(message) : absl::UnavailableError(message);
}

// Of a file that says what it says; every missing or strange value is an error.
absl::StatusOr<SavedCost> Parse(const std::string& text, const CostStore::Key& key) {
  try {
    const json file = json::parse(text);
    if (const int version = file.at("version").get<int>(); version != kVersion) {
      return absl::FailedPreconditionError(
          absl::StrCat("it has version ", version, ", this program reads ", kVersion));
    }
    const CostStore::Key found = {
        .model = key.model,
        .tensor_parallel_size = file.at("tensor_parallel_size").get<int32_t>(),
        .stage_layers = file.at("stage_layers").get<std::vector<int32_t>>(),
        .kv_dtype = file.at("kv_dtype").get<std::string>(),
        .attention = file.at("attention").get<std::string>()};
    if (file.at("model_digest").get<std::string>() != key.model.ToString() || !(found == key)) {
      return absl::NotFoundError("it is of another group");
    }
    SavedCost saved = {.hardware = file.at("hardware").get<std::string>(), .cost = {}};
    saved.cost.c = file.at("c").get<double>();
    saved.cost.g = file.at("g").get<double>();
    saved.cost.b = file.at("b").get<double>();
    saved.cost.a = file.at("a").get<double>();
    saved.cost.reach_tokens = file.at("reach_tokens").get<int64_t>();
    bool possible = saved.cost.reach_tokens > 0 && saved.cost.reach_tokens <= kMostTokens;
    double sum = 0;
    for (const double value : {saved.cost.c, saved.cost.g, saved.cost.b, saved.cost.a}) {
      possible = possible && value >= 0 && value <= kMostSeconds;  // so it is no NaN either
      sum += value;
    }
    if (!possible || !(sum > 0)) return absl::InvalidArgumentError("its numbers are impossible");
    return saved;
  } catch (const json::exception& error) {
    return absl::InvalidArgumentError(error.what());
  }
}

absl::StatusOr<std::string> Read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) return absl::PermissionDeniedError("it cannot be opened");
  const int64_t size = file.tellg();
  if (size < 0 || size > kMaxFileBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("it has ", size, " bytes, limit ", kMaxFileBytes));
  }
  std::string text(static_cast<size_t>(size), '\0');
  file.seekg(0);
  if (!file.read(text.data(), size)) return absl::UnavailableError("it cannot be read");
  return text;
}

// Whole on the disk before it returns OK.
absl::Status Write(const std::string& path, const std::string& text) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return SystemError("cannot create", path, errno);
  int error = 0;
  for (size_t done = 0; done < text.size() && error == 0;) {
    const ssize_t count = write(fd, text.data() + done, text.size() - done);
    if (count >= 0) {
      done += static_cast<size_t>(count);
    } else if (errno != EINTR) {
      error = errno;
    }
  }
  if (error == 0 && fsync(fd) != 0) error = errno;
  if (close(fd) != 0 && error == 0) error = errno;
  return error == 0 ? absl::OkStatus() : SystemError("cannot write", path, error);
}

}  // namespace

CostStore::CostStore(std::string folder, Key key)
    : folder_(std::move(folder)), key_(std::move(key)) {}

std::string CostStore::FileName(const std::string& hardware) const {
  const Digest rest = SipHash128(
      {}, absl::StrCat(key_.tensor_parallel_size, "|", absl::StrJoin(key_.stage_layers, ","), "|",
                       key_.kv_dtype, "|", key_.attention, "|", hardware));
  return absl::StrCat(key_.model.ToString(), "-", rest.ToString(), kSuffix);
}

std::vector<SavedCost> CostStore::Load() const {
  std::vector<SavedCost> found;
  const std::string prefix = key_.model.ToString() + "-";
  size_t looked_at = 0;
  std::error_code error;
  for (fs::directory_iterator it(folder_, error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.rfind(prefix, 0) != 0 || !name.ends_with(kSuffix)) continue;
    if (++looked_at > kMaxFiles) {
      LOG(WARNING) << "event=costs_not_read folder=" << folder_ << " why=\"more than " << kMaxFiles
                   << " files of this model\"";
      break;
    }
    std::error_code not_regular;
    absl::StatusOr<std::string> text =
        it->is_regular_file(not_regular)
            ? Read(it->path())
            : absl::StatusOr<std::string>(absl::InvalidArgumentError("it is no file"));
    absl::StatusOr<SavedCost> saved = text.ok() ? Parse(*text, key_) : text.status();
    if (saved.ok() && FileName(saved->hardware) == name) {
      found.push_back(*std::move(saved));
    } else if (!absl::IsNotFound(saved.status())) {
      LOG(ERROR) << "event=cost_file_ignored file=" << it->path().string() << " why=\""
                 << (saved.ok() ? "its name is that of other contents" : saved.status().message())
                 << "\"";
    }
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    LOG(ERROR) << "event=costs_not_read folder=" << folder_ << " why=\"" << error.message() << "\"";
  }
  return found;
}

absl::Status CostStore::Save(const SavedCost& saved) const {
  std::error_code error;
  fs::create_directories(folder_, error);
  if (error) return SystemError("cannot make", folder_, error.value());
  const json file = {{"version", kVersion},
                     {"hardware", saved.hardware},
                     {"model_digest", key_.model.ToString()},
                     {"tensor_parallel_size", key_.tensor_parallel_size},
                     {"stage_layers", key_.stage_layers},
                     {"kv_dtype", key_.kv_dtype},
                     {"attention", key_.attention},
                     {"c", saved.cost.c},
                     {"g", saved.cost.g},
                     {"b", saved.cost.b},
                     {"a", saved.cost.a},
                     {"reach_tokens", saved.cost.reach_tokens}};
  const std::string path = absl::StrCat(folder_, "/", FileName(saved.hardware));
  // Of this process alone: two leaders may save the same at the same time.
  const std::string draft = absl::StrCat(path, ".", getpid(), ".tmp");
  absl::Status written =
      Write(draft, file.dump(2, ' ', true, json::error_handler_t::replace) + "\n");
  if (written.ok() && std::rename(draft.c_str(), path.c_str()) != 0) {
    written = SystemError("cannot replace", path, errno);
  }
  if (!written.ok()) unlink(draft.c_str());
  return written;
}

}  // namespace longhaul::worker::leader
