// Encodes files with our tokenizer, one at a time, for tests/bench/tokenizer_bench.py.
//
//   tokenizer_bench MODEL_DIR
//
// Prints "ready", then answers each line "TEXT_FILE IDS_FILE" of its input with a line of JSON: the
// seconds that encoding took (of this thread's CPU, and of the clock) and the number of tokens. The
// ids go to IDS_FILE as 32-bit little-endian numbers. Special tokens are parsed.
#include <sys/resource.h>
#include <time.h>

#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "common/logging.h"
#include "common/text/tokenizer.h"

namespace longhaul::text {
namespace {

double Seconds(clockid_t clock) {
  timespec now{};
  CHECK(clock_gettime(clock, &now) == 0);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

nlohmann::json EncodeFile(const Tokenizer& tokenizer, const std::string& text_file,
                          const std::string& ids_file) {
  std::ifstream file(text_file, std::ios::binary);
  CHECK(file) << text_file;
  const std::string text(std::istreambuf_iterator<char>(file), {});
  const double cpu = Seconds(CLOCK_THREAD_CPUTIME_ID);
  const double wall = Seconds(CLOCK_MONOTONIC);
  const auto ids = tokenizer.Encode(text, SpecialTokens::kParse);
  const double wall_seconds = Seconds(CLOCK_MONOTONIC) - wall;
  const double cpu_seconds = Seconds(CLOCK_THREAD_CPUTIME_ID) - cpu;
  CHECK(ids.ok()) << ids.status();
  std::ofstream(ids_file, std::ios::binary)
      .write(reinterpret_cast<const char*>(ids->data()),
             static_cast<std::streamsize>(ids->size() * sizeof(TokenId)));
  rusage usage{};
  CHECK(getrusage(RUSAGE_SELF, &usage) == 0);
  return {{"bytes", text.size()},
          {"tokens", ids->size()},
          {"cpu_seconds", cpu_seconds},
          {"wall_seconds", wall_seconds},
          {"max_rss_kib", usage.ru_maxrss}};
}

int Main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: tokenizer_bench MODEL_DIR\n";
    return 2;
  }
  const auto tokenizer = Tokenizer::Load(argv[1]);
  CHECK(tokenizer.ok()) << tokenizer.status();
  std::cout << "ready" << std::endl;
  std::string text_file;
  std::string ids_file;
  while (std::cin >> text_file >> ids_file) {
    std::cout << EncodeFile(**tokenizer, text_file, ids_file).dump() << std::endl;
  }
  return 0;
}

}  // namespace
}  // namespace longhaul::text

int main(int argc, char** argv) { return longhaul::text::Main(argc, argv); }
