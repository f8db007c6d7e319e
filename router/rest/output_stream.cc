#include "router/rest/output_stream.h"

#include <boost/asio/buffer.hpp>
#include <utility>

#include "absl/strings/str_cat.h"

namespace longhaul::router::rest {

OutputStream::OutputStream(std::shared_ptr<boost::asio::ip::tcp::socket> socket,
                           absl::Duration write_timeout, int64_t max_pending_bytes,
                           Callbacks callbacks)
    : socket_(std::move(socket)),
      write_timeout_(write_timeout),
      max_pending_bytes_(max_pending_bytes),
      callbacks_(std::move(callbacks)),
      stall_timer_(socket_->get_executor()) {}

void OutputStream::Write(std::string_view bytes) {
  if (stopped_) return;
  if (static_cast<int64_t>(pending_.size() + bytes.size()) > max_pending_bytes_) {
    return Fail(absl::ResourceExhaustedError(
        absl::StrCat("the client left ", pending_.size() + bytes.size(),
                     " bytes of its response unread, limit ", max_pending_bytes_)));
  }
  pending_ += bytes;
  if (!writing_) WriteSome();
}

void OutputStream::WriteSome() {
  if (in_flight_begin_ == in_flight_.size()) {
    in_flight_.clear();
    in_flight_begin_ = 0;
    std::swap(in_flight_, pending_);
  }
  writing_ = true;
  stall_timer_.expires_after(absl::ToChronoNanoseconds(write_timeout_));
  stall_timer_.async_wait(
      [weak = weak_from_this(), serial = ++stall_serial_](const boost::system::error_code& error) {
        const std::shared_ptr<OutputStream> self = weak.lock();
        if (error || self == nullptr || serial != self->stall_serial_) return;
        self->Fail(absl::DeadlineExceededError(absl::StrCat(
            "the client accepted nothing for ", absl::FormatDuration(self->write_timeout_))));
      });
  socket_->async_write_some(
      boost::asio::buffer(in_flight_.data() + in_flight_begin_,
                          in_flight_.size() - in_flight_begin_),
      [self = shared_from_this()](const boost::system::error_code& error, size_t num_bytes) {
        self->stall_serial_++;
        self->stall_timer_.cancel();
        if (self->stopped_) return;
        if (error) return self->Fail(absl::UnavailableError(error.message()));
        self->in_flight_begin_ += num_bytes;
        if (self->in_flight_begin_ < self->in_flight_.size() || !self->pending_.empty()) {
          return self->WriteSome();
        }
        self->writing_ = false;
        // A copy, because the callback may stop this.
        const std::function<void()> drained = self->callbacks_.drained;
        drained();
      });
}

void OutputStream::Fail(const absl::Status& status) {
  if (stopped_) return;
  const std::function<void(const absl::Status&)> failed = std::move(callbacks_.failed);
  Stop();
  failed(status);
}

void OutputStream::Stop() {
  stopped_ = true;
  stall_serial_++;
  stall_timer_.cancel();
  callbacks_ = {};
}

}  // namespace longhaul::router::rest
