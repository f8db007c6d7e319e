#pragma once

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "worker/comm/rendezvous_store.h"

namespace longhaul::testing {

// For ranks that are processes: a file for each key in a folder that all of them see. Thread-safe.
class FolderRendezvous final : public worker::comm::RendezvousStore {
 public:
  explicit FolderRendezvous(std::string folder) : folder_(std::move(folder)) {}

  absl::Status Set(const std::string& key, const std::string& value) override {
    const std::string file = FileOf(key);
    const std::string unfinished = absl::StrCat(file, ".", getpid());
    std::ofstream(unfinished, std::ios::binary) << value;
    std::error_code error;
    std::filesystem::rename(unfinished, file, error);  // readers see all of it or nothing
    if (error) return absl::UnavailableError(absl::StrCat(file, ": ", error.message()));
    return absl::OkStatus();
  }

  absl::StatusOr<std::string> Get(const std::string& key, absl::Time deadline) override {
    while (true) {
      std::ifstream file(FileOf(key), std::ios::binary);
      if (file) return std::string(std::istreambuf_iterator<char>(file), {});
      if (absl::Now() >= deadline) {
        return absl::DeadlineExceededError(absl::StrCat("nobody published `", key, "`"));
      }
      absl::SleepFor(absl::Milliseconds(2));  // until another process has renamed its file
    }
  }

 private:
  std::string FileOf(std::string key) const {
    std::replace(key.begin(), key.end(), '/', '_');
    return folder_ + "/" + key;
  }

  const std::string folder_;
};

}  // namespace longhaul::testing
