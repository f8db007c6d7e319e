#include "router/rpc/generate_stream.h"

#include <utility>

#include "common/logging.h"
#include "router/rpc/finish_call.h"
#include "router/rpc/grpc_codec.h"
#include "router/rpc/message_bytes.h"

namespace longhaul::router::rpc {

std::shared_ptr<GenerateStream> GenerateStream::Create(
    Params params, Intake& intake, const Clock& clock,
    std::function<void(GenerateStream*)> on_done) {
  std::shared_ptr<GenerateStream> stream(
      new GenerateStream(std::move(params), intake, clock, std::move(on_done)));
  stream->self_ = stream;
  return stream;
}

GenerateStream::GenerateStream(Params params, Intake& intake, const Clock& clock,
                               std::function<void(GenerateStream*)> on_done)
    : params_(std::move(params)),
      token_bytes_(
          [&intake, model = params_.model](TokenId id) { return intake.TokenBytes(model, id); }),
      intake_(intake),
      clock_(clock),
      on_done_(std::move(on_done)) {}

void GenerateStream::CancelIfStalled(absl::Duration limit) {
  {
    MutexLock lock(mutex_);
    if (!writing_ || clock_.Now() - write_began_ < limit) return;
    write_began_ = absl::InfiniteFuture();  // once is enough
  }
  LOG(WARNING) << "request=" << params_.id.ToString()
               << " event=slow_reader seconds=" << absl::ToDoubleSeconds(limit);
  params_.context->TryCancel();
}

void GenerateStream::OnQueued(const QueuedEvent& event) {
  Enqueue(ToProto(event, params_.client_request_id));
}
void GenerateStream::OnProgress(const ProgressEvent& event) { Enqueue(ToProto(event)); }
void GenerateStream::OnPrompt(const PromptEvent& event) { Enqueue(ToProto(event, token_bytes_)); }
void GenerateStream::OnDelta(const DeltaEvent& event) { Enqueue(ToProto(event, token_bytes_)); }
void GenerateStream::OnFinished(const FinishedEvent& event, bool all_done) {
  Enqueue(ToProto(event));
  if (all_done) End(absl::OkStatus());
}
void GenerateStream::OnError(const absl::Status& status) { End(status); }

void GenerateStream::Enqueue(const v1::GenerateEvent& event) {
  grpc::ByteBuffer bytes = ToBytes(event);
  {
    MutexLock lock(mutex_);
    if (end_) return;  // cancelled meanwhile
    pending_.emplace_back().Swap(&bytes);
  }
  Advance();
}

void GenerateStream::End(const absl::Status& status) {
  {
    MutexLock lock(mutex_);
    if (!end_) end_ = status;
  }
  Advance();
}

void GenerateStream::Advance() {
  std::optional<absl::Status> finish;
  {
    MutexLock lock(mutex_);
    if (writing_ || finished_) return;
    if (!pending_.empty()) {
      writing_event_.Swap(&pending_.front());
      pending_.pop_front();
      writing_ = true;
      write_began_ = clock_.Now();
    } else if (end_) {
      finished_ = true;
      finish = end_;
    } else {
      return;
    }
  }
  // Outside of the lock: gRPC may run a reaction on this thread.
  if (!finish) return StartWrite(&writing_event_);
  AddErrorDetail(*params_.context, *finish);
  Finish(ToGrpc(*finish));
}

void GenerateStream::OnWriteDone(bool ok) {
  {
    MutexLock lock(mutex_);
    writing_ = false;
    if (!ok) pending_.clear();  // the client is gone; OnCancel says so too
    if (!ok && !end_) end_ = absl::CancelledError("the client is gone");
  }
  Advance();
}

void GenerateStream::OnCancel() {
  {
    MutexLock lock(mutex_);
    pending_.clear();
    if (!end_) end_ = absl::CancelledError("the call was cancelled");
  }
  intake_.Cancel(params_.id);
  Advance();
}

void GenerateStream::OnDone() {
  on_done_(this);
  // Last: may destroy this object.
  const std::shared_ptr<GenerateStream> self = std::move(self_);
}

}  // namespace longhaul::router::rpc
