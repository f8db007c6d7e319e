#include "cli/batch_run.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "common/types.h"

namespace longhaul::cli {
namespace {

// Answers that say "later" are waited for; together with the server's own waits some minutes.
constexpr int kMaxTries = 10;
constexpr absl::Duration kFirstPause = absl::Milliseconds(500);
constexpr absl::Duration kLongestPause = absl::Seconds(30);
// After a broken connection the loop gets to see first whether a program has ended.
constexpr absl::Duration kPauseAfterFailure = absl::Milliseconds(500);
constexpr size_t kMaxAnswerBytes = size_t{512} << 20;
// Requests with a result that are passed over before others have their turn.
constexpr int kMaxSkips = 256;

absl::Duration Pause(int tries, std::optional<absl::Duration> retry_after) {
  const absl::Duration own = std::min(kLongestPause, kFirstPause * (1 << std::min(tries, 10)));
  return std::max(own, retry_after.value_or(absl::ZeroDuration()));
}

std::string NewId() { return RequestId::Random().ToString(); }

}  // namespace

// One of the requests in flight, and the next one after it.
struct BatchRun::Lane {
  explicit Lane(boost::asio::io_context& context) : timer(context) {}
  std::string custom_id;
  std::string path;
  std::shared_ptr<const std::string> body;
  int tries = 0;
  bool waiting = false;  // has a request without a result
  HttpCall::Head head;
  std::string answer;
  std::shared_ptr<HttpCall> call;
  boost::asio::steady_timer timer;
};

BatchRun::BatchRun(boost::asio::io_context& context, BatchInput& input, BatchOutput& output,
                   Console& console, Params params)
    : context_(context),
      input_(input),
      output_(output),
      console_(console),
      params_(std::move(params)),
      begin_(absl::Now()) {
  for (int i = 0; i < params_.concurrency; i++) {
    Lane& lane = *lanes_.emplace_back(std::make_unique<Lane>(context_));
    num_running_++;
    boost::asio::post(context_, [this, &lane] { Next(lane); });
  }
}

BatchRun::~BatchRun() { Stop(absl::OkStatus()); }

void BatchRun::Stop(const absl::Status& reason) {
  if (std::exchange(ended_, true)) return;
  console_.ClearState();
  for (const std::unique_ptr<Lane>& lane : lanes_) {
    lane->timer.cancel();
    if (lane->call != nullptr) lane->call->Cancel();
    if (!lane->waiting || reason.ok()) continue;
    Append(EncodeBatchFailure(NewId(), lane->custom_id, reason), tally_.failed);
  }
}

void BatchRun::Next(Lane& lane) {
  for (int skips = 0; !ended_ && skips < kMaxSkips; skips++) {
    auto item = input_.Next();
    if (!item.ok()) return End(item.status());
    if (!item->has_value()) return LaneEnded();
    BatchRequest& request = (*item)->request;
    if (request.custom_id.has_value()) {
      if (const std::optional<bool> earlier = output_.Succeeded(*request.custom_id)) {
        (*earlier ? tally_.succeeded : tally_.refused)++;
        tally_.earlier++;
        continue;
      }
    }
    if (!request.fault.ok()) {
      if (!Append(EncodeBatchFault(NewId(), request.custom_id, request.fault), tally_.refused)) {
        return;
      }
      continue;
    }
    lane.custom_id = *request.custom_id;
    lane.path = std::move(request.path);
    lane.body = std::make_shared<const std::string>(std::move(request.body));
    lane.tries = 0;
    lane.waiting = true;
    return Ask(lane);
  }
  if (!ended_) boost::asio::post(context_, [this, &lane] { Next(lane); });
}

void BatchRun::Ask(Lane& lane) {
  ShowState();
  lane.tries++;
  lane.head = {};
  lane.answer.clear();
  lane.call = HttpCall::Start(
      context_, {.address = params_.address, .path = lane.path, .body = lane.body},
      {.total = params_.timeout},
      {.on_head = [&lane](const HttpCall::Head& head) { lane.head = head; },
       .on_body = [this, &lane](std::string_view bytes) { OnBody(lane, bytes); },
       .on_end = [this, &lane](const absl::Status& status) { OnEnd(lane, status); }});
}

void BatchRun::OnBody(Lane& lane, std::string_view bytes) {
  lane.answer += bytes;
  if (lane.answer.size() <= kMaxAnswerBytes) return;
  lane.call->Cancel();
  Failed(lane, absl::ResourceExhaustedError(
                   absl::StrCat("the answer is over ", kMaxAnswerBytes, " bytes")));
}

void BatchRun::OnEnd(Lane& lane, const absl::Status& status) {
  if (!status.ok()) return Failed(lane, status);
  const int http_status = lane.head.status;
  if ((http_status == 429 || http_status == 503) && lane.tries < kMaxTries) {
    return After(lane, Pause(lane.tries - 1, lane.head.retry_after), &BatchRun::Ask);
  }
  const std::string line =
      EncodeBatchResponse(NewId(), lane.custom_id, http_status, lane.head.request_id, lane.answer);
  int64_t& count = http_status == 200           ? tally_.succeeded
                   : IsFinalStatus(http_status) ? tally_.refused
                                                : tally_.failed;
  lane.waiting = false;
  if (!Append(line, count)) return;
  Next(lane);
}

void BatchRun::Failed(Lane& lane, const absl::Status& status) {
  lane.waiting = false;
  if (!Append(EncodeBatchFailure(NewId(), lane.custom_id, status), tally_.failed)) return;
  After(lane, kPauseAfterFailure, &BatchRun::Next);
}

void BatchRun::After(Lane& lane, absl::Duration pause, void (BatchRun::*then)(Lane&)) {
  lane.timer.expires_after(absl::ToChronoMilliseconds(pause));
  lane.timer.async_wait([this, &lane, then](const boost::system::error_code& error) {
    // Cancelled: the run may be gone.
    if (!error && !ended_) (this->*then)(lane);
  });
}

// False if the file failed; the run is then over.
bool BatchRun::Append(std::string_view line, int64_t& count) {
  const absl::Status status = output_.Append(line);
  if (!status.ok()) {
    End(status);
    return false;
  }
  count++;
  ShowState();
  return true;
}

void BatchRun::LaneEnded() {
  num_running_--;
  if (num_running_ == 0) End(absl::OkStatus());
}

void BatchRun::End(const absl::Status& status) {
  if (ended_) return;
  Stop(absl::OkStatus());
  params_.on_end(status);
}

void BatchRun::ShowState() {
  if (ended_) return;
  const int64_t done = tally_.done();
  std::string text = absl::StrFormat("%d of %d requests done", done, params_.num_requests);
  if (tally_.refused + tally_.failed > 0) {
    absl::StrAppendFormat(&text, ", %d of them errors", tally_.refused + tally_.failed);
  }
  const double seconds = absl::ToDoubleSeconds(absl::Now() - begin_);
  if (done > tally_.earlier) {
    const double rate = static_cast<double>(done - tally_.earlier) / seconds;
    const double left = static_cast<double>(params_.num_requests - done) / rate;
    absl::StrAppend(&text, ", ETA ",
                    absl::FormatDuration(absl::Seconds(static_cast<int64_t>(left))));
  }
  console_.State(text);
}

}  // namespace longhaul::cli
