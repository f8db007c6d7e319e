#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/sampling_params.h"
#include "common/types.h"

namespace longhaul::testing {

// How a FakeWorker treats the executions that begin while it is set.
struct FakeBehavior {
  // The tokens it generates. Empty: the prompt, rotated by the seed and repeated up to max_tokens
  // ("echo"). With a script, generation ends with STOP after its last token.
  std::vector<TokenId> script;
  absl::Duration token_interval = absl::ZeroDuration();
  int32_t tokens_per_event = 1;
  int32_t num_progress = 2;  // progress events before the first token
  absl::Duration progress_interval = absl::ZeroDuration();
  // Logprobs of the prompt, where they are asked for: each -0.5 times its token's position, and
  // alternatives of ids 0, 1, 2, ... one lower each.
  int32_t prompt_logprobs_per_event = 3;
  // After so many of these events: end the stream with `fail_status`.
  std::optional<int32_t> fail_after_prompt_events;
  // Instead of Admitted: Rejected with this prediction.
  std::optional<double> reject_seconds;
  // After so many tokens (0 = before the first): end the stream with `fail_status`...
  std::optional<int32_t> fail_after_tokens;
  absl::Status fail_status = absl::UnavailableError("fake worker fails as told");
  // ... or say so in Finished and end the stream in order, if this is set...
  bool fail_in_band = false;
  // ... or send nothing more until the stream is cancelled.
  std::optional<int32_t> hang_after_tokens;
};

// What it was asked, and what became of it.
struct FakeExecution {
  RequestId id;
  std::string model;
  std::vector<TokenId> prompt;
  int32_t largest_chunk_bytes = 0;  // serialised PromptChunk
  uint64_t seed = 0;
  float temperature = 0;
  int32_t max_tokens = 0;
  std::optional<double> deadline_seconds;
  std::optional<int32_t> prompt_logprobs;
  int32_t tokens_sent = 0;
  bool ended = false;
  bool cancelled = false;  // the stream was closed by the router
};

struct FakeLoad {
  int32_t running_requests = 0;
  int32_t waiting_requests = 0;
  double queued_seconds = 0;
  double seconds_per_token = 0;  // of prefill, as cost.b
  int32_t free_kv_blocks = 4096;
  bool ready = true;
  bool draining = false;
};

struct FakeCacheDelta {
  uint64_t sequence = 0;
  bool reset = false;
  std::vector<Digest> added;
  std::vector<Digest> removed;
};

// A leader without ranks: speaks worker.proto in this process, deterministically. Thread-safe.
class FakeWorker {
 public:
  struct Options {
    std::string address = "127.0.0.1:0";  // or unix:/path
    std::string model = "demo";
    Digest model_digest = {1, 2};
    uint64_t incarnation = 1;
    int32_t max_model_len = 1'048'576;
    int32_t kv_blocks = 4096;
    int32_t max_waiting_long = 1;
    int32_t long_prompt_tokens = 32'768;
    uint32_t protocol_version = kProtocolVersion;
    Digest prefix_root = {3, 4};
    int32_t prefix_root_max_tokens = 0;
    FakeLoad load;
    FakeBehavior behavior;
  };

  static absl::StatusOr<std::unique_ptr<FakeWorker>> Start(Options options);
  virtual ~FakeWorker() = default;  // Stop()

  // Where it listens, with the port that was chosen.
  virtual std::string address() const = 0;

  virtual void SetBehavior(FakeBehavior behavior) = 0;
  // Sends a load event to every Watch.
  virtual void SetLoad(FakeLoad load) = 0;
  // Silent: every Watch stays open and says nothing, as if this process were stopped.
  virtual void SetSilent(bool silent) = 0;
  // Every Watch gets each of them once; one that is open goes on where it was in the list.
  virtual void SetCacheDeltas(std::vector<FakeCacheDelta> deltas) = 0;

  virtual std::vector<FakeExecution> executions() const = 0;
  // Waits until `done` is true of the executions; false if `timeout` passed.
  virtual bool WaitFor(const std::function<bool(const std::vector<FakeExecution>&)>& done,
                       absl::Duration timeout = absl::Seconds(10)) const = 0;

  // Dies: every stream breaks off, nothing listens any more. Idempotent.
  virtual void Stop() = 0;
};

}  // namespace longhaul::testing
