#include "worker/leader/event_log.h"

#include <utility>

#include "common/logging.h"

namespace longhaul::worker::leader {

void EventLog::Append(Event event) {
  MutexLock lock(mutex_);
  CHECK(!end_.has_value()) << "an event after the end of the log";
  events_.push_back(std::move(event));
}

void EventLog::Close(absl::Status status) {
  MutexLock lock(mutex_);
  CHECK(!end_.has_value()) << "closed twice";
  end_ = std::move(status);
}

EventLog::Item EventLog::Read(uint64_t number) const {
  MutexLock lock(mutex_);
  if (number < events_.size()) return {.event = events_[number], .end = std::nullopt};
  return {.event = std::nullopt, .end = end_};
}

void EventLog::AddReader(std::shared_ptr<Reader> reader) {
  MutexLock lock(mutex_);
  readers_.push_back(std::move(reader));
}

void EventLog::RemoveReader(const Reader* reader) {
  MutexLock lock(mutex_);
  std::erase_if(readers_, [reader](const auto& r) { return r.get() == reader; });
}

size_t EventLog::num_readers() const {
  MutexLock lock(mutex_);
  return readers_.size();
}

bool EventLog::closed() const {
  MutexLock lock(mutex_);
  return end_.has_value();
}

void EventLog::Notify() {
  std::vector<std::shared_ptr<Reader>> readers;
  {
    MutexLock lock(mutex_);
    readers = readers_;
  }
  for (const std::shared_ptr<Reader>& reader : readers) reader->OnEvents();
}

}  // namespace longhaul::worker::leader
