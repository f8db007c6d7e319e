#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "cli/batch_input.h"
#include "cli/batch_output.h"
#include "cli/console.h"
#include "cli/http_call.h"

namespace longhaul::cli {

// The requests of a batch that have no result yet, asked of a router, some at a time; each result
// is on disk before the next request of its lane begins. Memory: one request and one answer a lane.
// Owned by the thread of its io_context.
class BatchRun {
 public:
  struct Params {
    std::string address;  // the router's REST, host:port
    int concurrency = 1;  // requests in flight
    int64_t num_requests = 0;
    absl::Duration timeout = absl::Hours(24);  // of one try
    // Called once, when all is done or the files fail (kUnavailable); not after Stop.
    std::function<void(const absl::Status&)> on_end;
  };
  struct Tally {
    int64_t succeeded = 0;  // earlier runs included
    int64_t refused = 0;    // a result that stands, but an error; earlier runs included
    int64_t failed = 0;     // without a result that stands: tried again by the next run
    int64_t earlier = 0;    // of the first two, those of earlier runs
    int64_t done() const { return succeeded + refused + failed; }
  };

  // All outlive it.
  BatchRun(boost::asio::io_context& context, BatchInput& input, BatchOutput& output,
           Console& console, Params params);
  ~BatchRun();
  BatchRun(const BatchRun&) = delete;
  BatchRun& operator=(const BatchRun&) = delete;

  // Cancels what is in flight. With a `reason` other than OK those requests get it as their error;
  // without one they have no result. Idempotent.
  void Stop(const absl::Status& reason);

  const Tally& tally() const { return tally_; }

 private:
  struct Lane;

  void Next(Lane& lane);
  void Ask(Lane& lane);
  void OnBody(Lane& lane, std::string_view bytes);
  void OnEnd(Lane& lane, const absl::Status& status);
  void After(Lane& lane, absl::Duration pause, void (BatchRun::*then)(Lane&));
  void Failed(Lane& lane, const absl::Status& status);
  bool Append(std::string_view line, int64_t& count);
  void LaneEnded();
  void End(const absl::Status& status);
  void ShowState();

  boost::asio::io_context& context_;
  BatchInput& input_;
  BatchOutput& output_;
  Console& console_;
  const Params params_;
  const absl::Time begin_;
  Tally tally_;
  std::vector<std::unique_ptr<Lane>> lanes_;
  int num_running_ = 0;
  bool ended_ = false;
};

}  // namespace longhaul::cli
