#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "common/clock.h"
#include "router/intake.h"
#include "router/rest/decode_pool.h"
#include "router/rest/http_exchange.h"
#include "router/rest/http_options.h"
#include "router/rest/openai_codec.h"
#include "router/rest/openai_encoder.h"
#include "router/rest/rest_sink.h"

namespace longhaul::router::rest {

// What REST calls share; all of it outlives them.
struct RestContext {
  const HttpOptions& options;
  Intake& intake;
  DecodePool& decode_pool;
  const Clock& clock;
};

// One generation over REST, from the body that was read to the last byte of the answer.
//
// The body is decoded on the decode pool, everything else happens on the connection's strand: the
// request goes to the intake, once for each of its prompts, the events come back through RestSinks
// and leave as a stream or one whole response. If the exchange is abandoned the request is
// cancelled at the intake.
//
// Owned by the exchange (as its OnAbandoned callback), for a while also by the decode task and by
// posted events; refers to the exchange weakly. At the end, whichever it is, the sinks are
// detached.
class RestCall : public std::enable_shared_from_this<RestCall> {
 public:
  static void Start(const RestContext& context, OpenAiEndpoint endpoint, HttpRequest request,
                    const std::shared_ptr<HttpExchange>& exchange);
  ~RestCall();

 private:
  RestCall(const RestContext& context, HttpRequest request,
           const std::shared_ptr<HttpExchange>& exchange);

  // On the decode pool: the only user of http_request_.body until it posted its result.
  absl::StatusOr<OpenAiRequest> Decode(OpenAiEndpoint endpoint);

  // One prompt of the request, by itself at the intake.
  struct Part {
    RequestId id;
    std::shared_ptr<RestSink> sink;
    int32_t first_choice = 0;  // of the whole answer
    bool queued = false;
    bool ended = false;
    ProgressEvent progress = {};
  };

  void OnDecoded(absl::StatusOr<OpenAiRequest> decoded);
  absl::Status Submit(GenerateRequest request, int32_t first_choice);
  void OnEvents();
  void OnEvent(Part& part, RestEvent& event);
  ProgressEvent TotalProgress() const;
  // Of several prompts, says which one an error is about.
  absl::Status AtPart(const Part& part, const absl::Status& status) const;
  void OnFinished(const FinishedEvent& finished);
  void OnAbandoned(const absl::Status& status);
  // Cancels what runs and answers with the error, in the way that the response's state allows.
  void Fail(const absl::Status& status);
  void StartStream();
  void SendAll(const std::vector<std::string>& chunks);
  // No event is taken any more.
  void Finish();

  const RestContext context_;
  const std::weak_ptr<HttpExchange> exchange_;
  const boost::asio::any_io_executor strand_;
  HttpRequest http_request_;
  boost::asio::steady_timer grace_timer_;  // streams: until the head leaves without an event
  std::optional<OpenAiEncoder> encoder_;   // set once decoded
  std::vector<Part> parts_;                // filled once decoded
  ResponseShape shape_;
  bool streaming_ = false;  // the stream's head left
  bool done_ = false;
};

}  // namespace longhaul::router::rest
