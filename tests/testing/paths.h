#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

#include "common/logging.h"

namespace longhaul::testing {

// Where a test finds files of the checkout. CTest sets the variables (cmake/targets.cmake).
inline std::string SourcePath(const std::string& relative) {
  const char* root = std::getenv("LONGHAUL_SOURCE_DIR");
  CHECK(root != nullptr) << "LONGHAUL_SOURCE_DIR is not set: run the test through ctest";
  return std::string(root) + "/" + relative;
}

inline std::string ProgramPath(const std::string& name) {
  const char* folder = std::getenv("LONGHAUL_BIN_DIR");
  CHECK(folder != nullptr) << "LONGHAUL_BIN_DIR is not set: run the test through ctest";
  return std::string(folder) + "/" + name;
}

// A file of the reference material that lies beside the checkout on some machines; empty if it is
// not there, then the test skips and says so.
inline std::string SharedPath(const std::string& relative) {
  const char* shared = std::getenv("LONGHAUL_SHARED");
  const std::string path =
      (shared != nullptr ? std::string(shared) : SourcePath("../shared")) + "/" + relative;
  return std::filesystem::exists(path) ? path : "";
}

}  // namespace longhaul::testing
