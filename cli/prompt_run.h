#pragma once

#include <boost/asio/io_context.hpp>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "cli/console.h"
#include "cli/http_call.h"
#include "cli/prompt_codec.h"
#include "cli/sse_reader.h"

namespace longhaul::cli {

// One prompt asked of a router, from the request to the last word: text goes out as it comes, the
// prefill's progress and a summary go to the console. Owned by the thread of its io_context.
class PromptRun {
 public:
  struct Params {
    std::string address;                      // the router's REST, host:port
    std::string path;                         // PromptPath
    std::shared_ptr<const std::string> body;  // PromptBody
    absl::Duration timeout = absl::Hours(24);
    // Takes generated text; an error ends the run.
    std::function<absl::Status(std::string_view)> write;
    // Called once at the end, not after Cancel: OK, the server's refusal or error (kAborted, with
    // its message), or what HttpCall knows.
    std::function<void(const absl::Status&)> on_end;
  };

  PromptRun(boost::asio::io_context& context, Console& console, Params params);
  PromptRun(const PromptRun&) = delete;
  PromptRun& operator=(const PromptRun&) = delete;

  void Cancel() { call_->Cancel(); }

 private:
  void OnBody(std::string_view bytes);
  void OnEvent(std::string_view data);
  void OnEnd(const absl::Status& status);
  void Fail(const absl::Status& status);
  std::string Summary() const;

  Console& console_;
  const Params params_;
  const absl::Time begin_;
  SseReader events_;
  int http_status_ = 0;
  std::string refusal_;   // body of an answer that is no stream
  absl::Status failure_;  // first error of an event
  bool done_ = false;
  absl::Time first_text_ = absl::InfiniteFuture();
  absl::Time last_text_ = absl::InfinitePast();
  std::string finish_reason_;
  PromptEvent::Usage usage_;
  std::shared_ptr<HttpCall> call_;
};

}  // namespace longhaul::cli
