#include "cli/prompt_run.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"

namespace longhaul::cli {
namespace {

// A router sends a comment every 10 s.
constexpr absl::Duration kSilence = absl::Seconds(120);
constexpr size_t kMaxRefusalBytes = size_t{64} << 10;

std::string ProgressText(const PromptEvent::Progress& progress) {
  const double total = std::max(1.0, static_cast<double>(progress.prompt_tokens));
  std::string text = absl::StrFormat(
      "prefill: %d of %d tokens (%.0f%%)", progress.processed_tokens, progress.prompt_tokens,
      100.0 * static_cast<double>(progress.processed_tokens) / total);
  if (progress.eta_seconds.has_value()) {
    absl::StrAppend(&text, ", ETA ",
                    absl::FormatDuration(absl::Seconds(std::ceil(*progress.eta_seconds))));
  }
  return text;
}

}  // namespace

PromptRun::PromptRun(boost::asio::io_context& context, Console& console, Params params)
    : console_(console),
      params_(std::move(params)),
      begin_(absl::Now()),
      events_([this](std::string_view data) { OnEvent(data); }) {
  call_ = HttpCall::Start(
      context, {.address = params_.address, .path = params_.path, .body = params_.body},
      {.silence = kSilence, .total = params_.timeout},
      {.on_head = [this](const HttpCall::Head& head) { http_status_ = head.status; },
       .on_body = [this](std::string_view bytes) { OnBody(bytes); },
       .on_end = [this](const absl::Status& status) { OnEnd(status); }});
}

void PromptRun::OnBody(std::string_view bytes) {
  if (http_status_ != 200) {
    refusal_ += bytes.substr(0, kMaxRefusalBytes - std::min(kMaxRefusalBytes, refusal_.size()));
    return;
  }
  if (const absl::Status status = events_.Add(bytes); !status.ok()) return Fail(status);
  if (!failure_.ok()) Fail(failure_);
}

void PromptRun::OnEvent(std::string_view data) {
  if (!failure_.ok()) return;
  absl::StatusOr<PromptEvent> event = ParsePromptEvent(data);
  if (!event.ok()) {
    failure_ = event.status();
    return;
  }
  if (event->error.has_value()) {
    failure_ = absl::AbortedError(*event->error);
    return;
  }
  if (event->progress.has_value()) console_.State(ProgressText(*event->progress));
  if (event->usage.has_value()) usage_ = *event->usage;
  if (!event->finish_reason.empty()) finish_reason_ = event->finish_reason;
  done_ |= event->done;
  if (event->text.empty()) return;
  console_.ClearState();
  last_text_ = absl::Now();
  first_text_ = std::min(first_text_, last_text_);
  failure_ = params_.write(event->text);
}

void PromptRun::OnEnd(const absl::Status& status) {
  console_.ClearState();
  if (!status.ok()) return params_.on_end(status);
  if (http_status_ != 200) return params_.on_end(absl::AbortedError(ErrorMessageOf(refusal_)));
  if (!done_) return params_.on_end(absl::UnavailableError("the answer broke off"));
  console_.Line(Summary());
  params_.on_end(absl::OkStatus());
}

void PromptRun::Fail(const absl::Status& status) {
  console_.ClearState();
  call_->Cancel();
  params_.on_end(status);
}

std::string PromptRun::Summary() const {
  std::string text = absl::StrFormat("%d prompt tokens", usage_.prompt_tokens);
  if (first_text_ != absl::InfiniteFuture()) {
    absl::StrAppendFormat(&text, ", first text after %.2f s",
                          absl::ToDoubleSeconds(first_text_ - begin_));
  }
  absl::StrAppendFormat(&text, ", %d tokens", usage_.completion_tokens);
  const double seconds = absl::ToDoubleSeconds(last_text_ - first_text_);
  if (usage_.completion_tokens > 1 && seconds > 0) {
    absl::StrAppendFormat(&text, " at %.1f tokens/s",
                          static_cast<double>(usage_.completion_tokens - 1) / seconds);
  }
  if (!finish_reason_.empty()) absl::StrAppend(&text, " (", finish_reason_, ")");
  return text;
}

}  // namespace longhaul::cli
