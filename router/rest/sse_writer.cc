#include "router/rest/sse_writer.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"

namespace longhaul::router::rest {

SseWriter::SseWriter(std::shared_ptr<OutputStream> output, boost::asio::any_io_executor strand,
                     Framing framing, absl::Duration heartbeat)
    : output_(std::move(output)), framing_(framing), heartbeat_(heartbeat), timer_(strand) {}

void SseWriter::Start(std::string_view head) {
  output_->Write(head);
  ArmHeartbeat();
}

void SseWriter::Event(std::string_view data) {
  CHECK(data.find_first_of("\r\n") == data.npos) << "an event's data has more than one line";
  std::string text = "data: ";
  text += data;
  text += "\n\n";
  Send(text);
}

void SseWriter::Finish() {
  Stop();
  if (framing_ == Framing::kChunked) output_->Write("0\r\n\r\n");
}

void SseWriter::Stop() {
  stopped_ = true;
  timer_.cancel();
}

void SseWriter::Send(std::string_view text) {
  if (stopped_) return;
  num_sent_++;
  if (framing_ == Framing::kUntilClose) return output_->Write(text);
  std::string chunk = absl::StrCat(absl::Hex(text.size()), "\r\n");
  chunk += text;
  chunk += "\r\n";
  output_->Write(chunk);
}

// One timer for the whole stream, not one for each event: it looks what happened in its period.
void SseWriter::ArmHeartbeat() {
  timer_.expires_after(absl::ToChronoNanoseconds(heartbeat_));
  timer_.async_wait(
      [weak = weak_from_this(), num_sent = num_sent_](const boost::system::error_code& error) {
        const std::shared_ptr<SseWriter> self = weak.lock();
        if (error || self == nullptr || self->stopped_) return;
        // A peer that has yet to accept earlier bytes needs no more of them.
        if (self->num_sent_ == num_sent && self->output_->idle()) self->Send(": heartbeat\n\n");
        if (!self->stopped_) self->ArmHeartbeat();
      });
}

}  // namespace longhaul::router::rest
