#include "tests/testing/fake_worker.h"

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/mutex.h"
#include "longhaul/v1/worker.grpc.pb.h"

namespace longhaul::testing {
namespace {

// How often waiting handlers look for a cancellation: the synchronous API has no event for it.
constexpr absl::Duration kPollInterval = absl::Milliseconds(2);
// The wire's promise: a load event at least once a second.
constexpr absl::Duration kLoadInterval = absl::Milliseconds(500);

// Numbers the events as the wire asks.
class EventWriter {
 public:
  explicit EventWriter(grpc::ServerReaderWriter<v1::ExecuteEvent, v1::ExecuteRequest>& stream)
      : stream_(stream) {}
  bool Write(v1::ExecuteEvent event) {
    event.set_number(next_++);
    return stream_.Write(event);
  }

 private:
  grpc::ServerReaderWriter<v1::ExecuteEvent, v1::ExecuteRequest>& stream_;
  uint64_t next_ = 0;
};

class GrpcFakeWorker final : public FakeWorker, public v1::Worker::Service {
 public:
  explicit GrpcFakeWorker(Options options)
      : options_(std::move(options)), behavior_(options_.behavior), load_(options_.load) {}
  ~GrpcFakeWorker() override { Stop(); }

  absl::Status Listen() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort(options_.address, grpc::InsecureServerCredentials(), &port);
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port == 0) {
      return absl::UnavailableError(absl::StrCat("cannot listen on ", options_.address));
    }
    const bool is_unix = options_.address.rfind("unix:", 0) == 0;
    address_ = is_unix ? options_.address : absl::StrCat("127.0.0.1:", port);
    return absl::OkStatus();
  }

  std::string address() const override { return address_; }

  void SetBehavior(FakeBehavior behavior) override {
    MutexLock lock(mutex_);
    behavior_ = std::move(behavior);
  }

  void SetLoad(FakeLoad load) override {
    MutexLock lock(mutex_);
    load_ = load;
    ++load_version_;
    changed_.SignalAll();
  }

  void SetSilent(bool silent) override {
    MutexLock lock(mutex_);
    silent_ = silent;
    changed_.SignalAll();
  }

  void SetCacheDeltas(std::vector<FakeCacheDelta> deltas) override {
    MutexLock lock(mutex_);
    deltas_ = std::move(deltas);
    ++load_version_;
    changed_.SignalAll();
  }

  std::vector<FakeExecution> executions() const override {
    MutexLock lock(mutex_);
    return executions_;
  }

  bool WaitFor(const std::function<bool(const std::vector<FakeExecution>&)>& done,
               absl::Duration timeout) const override {
    const absl::Time deadline = absl::Now() + timeout;
    MutexLock lock(mutex_);
    while (!done(executions_)) {
      if (!changed_.WaitUntil(mutex_, deadline)) return done(executions_);
    }
    return true;
  }

  void Stop() override {
    {
      MutexLock lock(mutex_);
      if (stopping_) return;
      stopping_ = true;
      changed_.SignalAll();
    }
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
  }

  grpc::Status Watch(grpc::ServerContext* context, const v1::WatchRequest*,
                     grpc::ServerWriter<v1::WatchEvent>* writer) override {
    v1::WatchEvent event;
    WaitWhileSilent(*context);
    FillHello(*event.mutable_hello());
    writer->Write(event);
    uint64_t sequence = 0;
    size_t deltas_sent = 0;
    while (true) {
      WaitWhileSilent(*context);
      event.Clear();
      uint64_t version = 0;
      {
        MutexLock lock(mutex_);
        if (stopping_) break;
        version = load_version_;
        FillLoad(++sequence, *event.mutable_load());
      }
      if (!writer->Write(event)) break;
      while (FillDelta(deltas_sent, event)) {
        writer->Write(event);
        ++deltas_sent;
      }
      const absl::Time next = absl::Now() + kLoadInterval;
      while (absl::Now() < next && !context->IsCancelled()) {
        MutexLock lock(mutex_);
        if (stopping_ || load_version_ != version) break;
        changed_.WaitUntil(mutex_, absl::Now() + 10 * kPollInterval);
      }
      if (context->IsCancelled()) break;
    }
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "fake worker stopped");
  }

  using Stream = grpc::ServerReaderWriter<v1::ExecuteEvent, v1::ExecuteRequest>;
  grpc::Status Execute(grpc::ServerContext* context, Stream* stream) override;

 private:
  // Until it may speak, or the call or this worker is over.
  void WaitWhileSilent(const grpc::ServerContext& context) EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    while (silent_ && !stopping_ && !context.IsCancelled()) {
      changed_.WaitUntil(mutex_, absl::Now() + 10 * kPollInterval);
    }
  }

  void FillHello(v1::Hello& hello) const {
    hello.set_protocol_version(options_.protocol_version);
    hello.set_incarnation(options_.incarnation);
    hello.set_model(options_.model);
    hello.set_model_digest(options_.model_digest.ToBytes());
    hello.set_max_model_len(static_cast<uint32_t>(options_.max_model_len));
    hello.set_kv_block_tokens(kKvBlockTokens);
    hello.set_kv_blocks(static_cast<uint32_t>(options_.kv_blocks));
    hello.set_max_waiting_long(static_cast<uint32_t>(options_.max_waiting_long));
    hello.set_long_prompt_tokens(static_cast<uint32_t>(options_.long_prompt_tokens));
    hello.set_pipeline_parallel_size(1);
    hello.set_tensor_parallel_size(1);
    hello.set_prefix_root(options_.prefix_root.ToBytes());
    hello.set_prefix_root_max_tokens(static_cast<uint32_t>(options_.prefix_root_max_tokens));
  }

  bool FillDelta(size_t index, v1::WatchEvent& event) const EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    if (index >= deltas_.size()) return false;
    event.Clear();
    v1::CacheDelta& delta = *event.mutable_cache_delta();
    delta.set_sequence(deltas_[index].sequence);
    delta.set_reset(deltas_[index].reset);
    for (const Digest& identity : deltas_[index].added) delta.add_added(identity.ToBytes());
    for (const Digest& identity : deltas_[index].removed) delta.add_removed(identity.ToBytes());
    return true;
  }

  void FillLoad(uint64_t sequence, v1::Load& load) const REQUIRES(mutex_) {
    load.set_sequence(sequence);
    load.set_running_requests(static_cast<uint32_t>(load_.running_requests));
    load.set_waiting_requests(static_cast<uint32_t>(load_.waiting_requests));
    load.set_queued_seconds(load_.queued_seconds);
    load.set_free_kv_blocks(static_cast<uint32_t>(load_.free_kv_blocks));
    load.set_ready(load_.ready);
    load.set_draining(load_.draining);
    load.mutable_cost()->set_b(load_.seconds_per_token);
  }

  // Reads header and prompt; false if the stream broke off.
  static bool ReadRequest(Stream& stream, FakeExecution& execution);

  // False if the stream was cancelled, or the worker stopped, before `duration` was over.
  bool Sleep(const grpc::ServerContext& context, absl::Duration duration) const EXCLUDES(mutex_) {
    const absl::Time end = absl::Now() + duration;
    while (true) {
      if (context.IsCancelled()) return false;
      MutexLock lock(mutex_);
      if (stopping_) return false;
      const absl::Time now = absl::Now();
      if (now >= end) return true;
      changed_.WaitUntil(mutex_, std::min(end, now + kPollInterval));
    }
  }

  void Update(size_t index, const std::function<void(FakeExecution&)>& change) EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    change(executions_[index]);
    changed_.SignalAll();
  }

  grpc::Status Generate(const grpc::ServerContext& context, Stream& stream,
                        const FakeExecution& execution, const FakeBehavior& behavior, size_t index);
  // False if it is to fail now.
  static bool SendPromptLogprobs(const FakeExecution& execution, const FakeBehavior& behavior,
                                 EventWriter& writer);

  const Options options_;
  std::string address_;                   // constant after Listen
  std::unique_ptr<grpc::Server> server_;  // constant after Listen
  mutable Mutex mutex_;
  mutable CondVar changed_;
  FakeBehavior behavior_ GUARDED_BY(mutex_);
  FakeLoad load_ GUARDED_BY(mutex_);
  uint64_t load_version_ GUARDED_BY(mutex_) = 0;  // of load and deltas
  std::vector<FakeCacheDelta> deltas_ GUARDED_BY(mutex_);
  std::vector<FakeExecution> executions_ GUARDED_BY(mutex_);
  bool silent_ GUARDED_BY(mutex_) = false;
  bool stopping_ GUARDED_BY(mutex_) = false;
};

grpc::Status ToGrpc(const absl::Status& status) {
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message()));
}

bool GrpcFakeWorker::ReadRequest(Stream& stream, FakeExecution& execution) {
  v1::ExecuteRequest message;
  if (!stream.Read(&message) || !message.has_header()) return false;
  const v1::ExecuteHeader header = message.header();
  execution.id = {header.request_id().high(), header.request_id().low()};
  execution.model = header.model();
  execution.seed = header.sampling().seed();
  execution.temperature = header.sampling().temperature();
  execution.max_tokens = static_cast<int32_t>(header.stopping().max_tokens());
  if (header.has_prompt_logprobs()) {
    execution.prompt_logprobs = static_cast<int32_t>(header.prompt_logprobs());
  }
  if (header.has_deadline_seconds()) execution.deadline_seconds = header.deadline_seconds();
  while (execution.prompt.size() < header.prompt_tokens()) {
    if (!stream.Read(&message) || !message.has_prompt()) return false;
    execution.largest_chunk_bytes = std::max(execution.largest_chunk_bytes,
                                             static_cast<int32_t>(message.prompt().ByteSizeLong()));
    const auto& ids = message.prompt().ids();
    execution.prompt.insert(execution.prompt.end(), ids.begin(), ids.end());
  }
  return execution.prompt.size() == header.prompt_tokens();
}

bool GrpcFakeWorker::SendPromptLogprobs(const FakeExecution& execution,
                                        const FakeBehavior& behavior, EventWriter& writer) {
  const size_t end = execution.prompt_logprobs ? execution.prompt.size() : 0;
  int32_t sent = 0;
  for (size_t position = 1; position < end; ++sent) {
    if (sent == behavior.fail_after_prompt_events) return false;
    v1::ExecuteEvent event;
    v1::PromptLogprobs& prompt = *event.mutable_prompt_logprobs();
    prompt.set_begin(static_cast<uint32_t>(position));
    for (int32_t i = 0; i < behavior.prompt_logprobs_per_event && position < end; ++i, ++position) {
      v1::GeneratedToken& token = *prompt.add_tokens();
      token.set_token_id(static_cast<uint32_t>(execution.prompt[position]));
      token.set_logprob(-0.5f * static_cast<float>(position));
      for (int32_t other = 0; other < *execution.prompt_logprobs; ++other) {
        v1::TokenLogprob& top = *token.add_top_logprobs();
        top.set_token_id(static_cast<uint32_t>(other));
        top.set_logprob(token.logprob() - static_cast<float>(other));
      }
    }
    writer.Write(event);
  }
  return true;
}

grpc::Status GrpcFakeWorker::Generate(const grpc::ServerContext& context, Stream& stream,
                                      const FakeExecution& execution, const FakeBehavior& behavior,
                                      size_t index) {
  EventWriter writer(stream);
  v1::ExecuteEvent event;
  if (behavior.reject_seconds) {
    event.mutable_rejected()->set_predicted_wait_seconds(*behavior.reject_seconds);
    event.mutable_rejected()->set_reason("fake worker is full as told");
    writer.Write(event);
    return grpc::Status::OK;
  }
  event.mutable_admitted()->set_cached_tokens(0);
  writer.Write(event);
  const auto prompt_tokens = static_cast<uint32_t>(execution.prompt.size());
  for (int32_t i = 1; i <= behavior.num_progress; ++i) {
    if (!Sleep(context, behavior.progress_interval)) return grpc::Status::CANCELLED;
    event.Clear();
    event.mutable_progress()->set_prompt_tokens(prompt_tokens);
    event.mutable_progress()->set_processed_tokens(
        static_cast<uint32_t>(int64_t{prompt_tokens} * i / behavior.num_progress));
    event.mutable_progress()->set_eta_seconds(behavior.num_progress - i);
    writer.Write(event);
  }
  if (!SendPromptLogprobs(execution, behavior, writer)) return ToGrpc(behavior.fail_status);
  const bool scripted = !behavior.script.empty();
  const int32_t length =
      scripted ? std::min(static_cast<int32_t>(behavior.script.size()), execution.max_tokens)
               : execution.max_tokens;
  int32_t sent = 0;
  while (true) {
    if (behavior.fail_after_tokens && sent >= *behavior.fail_after_tokens) {
      if (!behavior.fail_in_band) return ToGrpc(behavior.fail_status);
      event.Clear();
      event.mutable_finished()->set_reason(v1::FINISH_REASON_ERROR);
      event.mutable_finished()->set_error(std::string(behavior.fail_status.message()));
      event.mutable_finished()->set_error_code(static_cast<int>(behavior.fail_status.code()));
      writer.Write(event);
      return grpc::Status::OK;
    }
    if (behavior.hang_after_tokens && sent >= *behavior.hang_after_tokens) {
      Sleep(context, absl::InfiniteDuration());
      return grpc::Status::CANCELLED;
    }
    if (sent == length) break;
    if (!Sleep(context, behavior.token_interval)) return grpc::Status::CANCELLED;
    event.Clear();
    for (int32_t i = 0; i < behavior.tokens_per_event && sent < length; ++i, ++sent) {
      const TokenId token = scripted
                                ? behavior.script[static_cast<size_t>(sent)]
                                : execution.prompt[(execution.seed + static_cast<uint64_t>(sent)) %
                                                   execution.prompt.size()];
      event.mutable_tokens()->add_tokens()->set_token_id(static_cast<uint32_t>(token));
    }
    if (!writer.Write(event)) return grpc::Status::CANCELLED;
    Update(index, [sent](FakeExecution& record) { record.tokens_sent = sent; });
  }
  event.Clear();
  const bool whole_script = scripted && length == static_cast<int32_t>(behavior.script.size());
  event.mutable_finished()->set_reason(whole_script ? v1::FINISH_REASON_STOP
                                                    : v1::FINISH_REASON_LENGTH);
  event.mutable_finished()->set_prompt_tokens(prompt_tokens);
  event.mutable_finished()->set_completion_tokens(static_cast<uint32_t>(sent));
  writer.Write(event);
  return grpc::Status::OK;
}

grpc::Status GrpcFakeWorker::Execute(grpc::ServerContext* context, Stream* stream) {
  FakeExecution execution;
  if (!ReadRequest(*stream, execution)) return grpc::Status::CANCELLED;
  FakeBehavior behavior;
  size_t index = 0;
  {
    MutexLock lock(mutex_);
    behavior = behavior_;
    index = executions_.size();
    executions_.push_back(execution);
    changed_.SignalAll();
  }
  const grpc::Status status = Generate(*context, *stream, execution, behavior, index);
  Update(index, [&](FakeExecution& record) {
    record.ended = true;
    record.cancelled = status.error_code() == grpc::StatusCode::CANCELLED;
  });
  return status;
}

}  // namespace

absl::StatusOr<std::unique_ptr<FakeWorker>> FakeWorker::Start(Options options) {
  auto worker = std::make_unique<GrpcFakeWorker>(std::move(options));
  if (const absl::Status status = worker->Listen(); !status.ok()) return status;
  return std::unique_ptr<FakeWorker>(std::move(worker));
}

}  // namespace longhaul::testing
