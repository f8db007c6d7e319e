#pragma once

#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/clock.h"
#include "longhaul/v1/inference.grpc.pb.h"
#include "router/rpc/grpc_codec.h"
#include "router/rpc/grpc_frontend.h"
#include "tests/testing/fake_worker.h"
#include "tests/testing/router_stack.h"
#include "tests/testing/status_matchers.h"

namespace longhaul::testing {

using Executions = std::vector<FakeExecution>;

// A faked leader, a router in front of it, and a client's channel to that.
class GrpcTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(worker_, FakeWorker::Start({}));
    router_ = std::make_unique<RouterStack>(RouterStack::Options{.workers = {worker_->address()}});
    ASSERT_TRUE(router_->WaitForGroups(1));
    Listen({});
  }

  // Anew, if something listens already.
  void Listen(router::rpc::GrpcFrontendOptions options) {
    options.port = 0;
    frontend_.reset();
    ASSERT_OK_AND_ASSIGN(frontend_,
                         router::rpc::GrpcFrontend::Start(options, router_->intake(), clock_));
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    // A window that does not grow, so that a client that does not read is noticed soon.
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 64 << 10);
    channel_ = grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", frontend_->port()),
                                         grpc::InsecureChannelCredentials(), arguments);
    stub_ = v1::Inference::NewStub(channel_);
  }

  FakeBehavior Saying(const std::string& text) const {
    FakeBehavior behavior;
    behavior.script = *router_->model().tokenizer->Encode(text, text::SpecialTokens::kAsText);
    return behavior;
  }

  static v1::ChatRequest Chat(const std::string& content) {
    v1::ChatRequest request;
    request.set_model("demo");
    v1::ChatMessage& message = *request.add_messages();
    message.set_role("user");
    message.set_content(content);
    return request;
  }

  struct Answer {
    std::vector<v1::GenerateEvent> events;
    std::string text;
    grpc::Status status;
    v1::ErrorDetail detail;
  };
  Answer Ask(const v1::ChatRequest& request, absl::Duration timeout = absl::Seconds(10)) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
    const auto reader = stub_->Chat(&context, request);
    Answer answer;
    v1::GenerateEvent event;
    while (reader->Read(&event)) {
      answer.text += event.delta().text();
      answer.events.push_back(event);
    }
    answer.status = reader->Finish();
    answer.detail = DetailOf(context);
    return answer;
  }
  // Of a call that is over.
  static v1::ErrorDetail DetailOf(const grpc::ClientContext& context) {
    v1::ErrorDetail detail;
    const auto& trailers = context.GetServerTrailingMetadata();
    const auto trailer = trailers.find(router::rpc::kErrorDetailTrailer);
    if (trailer != trailers.end()) {
      EXPECT_TRUE(
          detail.ParseFromArray(trailer->second.data(), static_cast<int>(trailer->second.size())));
    }
    return detail;
  }

  // One RPC with raw bytes, of any service.
  grpc::Status CallRaw(const std::string& method, const std::string& request, std::string* response,
                       v1::ErrorDetail* detail = nullptr) {
    grpc::GenericStub stub(channel_);
    grpc::ClientContext context;
    const grpc::Slice slice(request);
    const grpc::ByteBuffer in(&slice, 1);
    grpc::ByteBuffer out;
    std::promise<grpc::Status> done;
    stub.UnaryCall(&context, method, {}, &in, &out,
                   [&done](grpc::Status status) { done.set_value(std::move(status)); });
    const grpc::Status status = done.get_future().get();
    if (detail != nullptr) *detail = DetailOf(context);
    std::vector<grpc::Slice> slices;
    if (status.ok()) out.Dump(&slices);
    for (const grpc::Slice& part : slices) {
      response->append(reinterpret_cast<const char*>(part.begin()), part.size());
    }
    return status;
  }

  SystemClock clock_;
  std::unique_ptr<FakeWorker> worker_;
  std::unique_ptr<RouterStack> router_;
  std::unique_ptr<router::rpc::GrpcFrontend> frontend_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Inference::Stub> stub_;
};

}  // namespace longhaul::testing
