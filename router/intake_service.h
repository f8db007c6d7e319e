#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "common/clock.h"
#include "router/cluster_watch.h"
#include "router/dispatcher.h"
#include "router/intake.h"
#include "router/router_metrics.h"
#include "router/served_model.h"
#include "router/tokenize_pool.h"

namespace longhaul::router {

struct IntakeOptions {
  // Requests that wait to be tokenized; not below the dispatcher's max_requests.
  size_t max_waiting = 1024;
  absl::Duration default_timeout = absl::Hours(1);
  absl::Duration max_timeout = absl::Hours(24);  // the longest a client may ask for
  int32_t max_prompt_logprobs_tokens = 32768;
};

// The Intake of a router that serves one model: hands requests to the tokenizing pool and to the
// dispatcher, which owns them from the first moment. Thread-safe.
class IntakeService final : public Intake {
 public:
  // What is passed by reference is borrowed and outlives this. `seed_source` as in TokenizePool.
  IntakeService(const IntakeOptions& options, const ServedModel& model, const ClusterWatch& cluster,
                Dispatcher& dispatcher, const Clock& clock, RouterMetrics& metrics,
                uint64_t seed_source);

  absl::Status Submit(GenerateRequest request, std::shared_ptr<ResponseSink> sink) override;
  void Cancel(const RequestId& id) override;
  std::vector<ModelInfo> Models() const override;
  absl::StatusOr<std::vector<TokenId>> TokenizeChat(std::string_view model,
                                                    const ChatInput& chat) const override;
  absl::StatusOr<std::vector<TokenId>> Tokenize(std::string_view model, std::string_view text,
                                                bool parse_special) const override;
  absl::StatusOr<std::string> Detokenize(std::string_view model,
                                         const std::vector<TokenId>& ids) const override;
  std::string TokenBytes(std::string_view model, TokenId id) const override;
  bool Ready() const override;

 private:
  // When the request's time is over.
  absl::StatusOr<absl::Time> DeadlineOf(const GenerateRequest& request) const;
  absl::Status CheckModel(std::string_view name) const;
  // The longest of the groups that are there, else the configured length; never above the latter.
  int32_t MaxModelLen() const;
  // Of the groups that are known, without repetition.
  std::vector<Digest> PrefixRoots() const;

  const IntakeOptions options_;
  const ServedModel& model_;
  const ClusterWatch& cluster_;
  Dispatcher& dispatcher_;
  const Clock& clock_;
  const absl::Time created_;
  TokenizePool pool_;
};

}  // namespace longhaul::router
