#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "worker/leader/event_log.h"

namespace longhaul::worker::leader {

// Writes to logs now and tells their readers later, all at once: readers write to sockets, and the
// ranks wait for their next plan. Holds the logs until then. Thread-compatible, owned by the engine
// core.
class EventAnnouncer {
 public:
  void Append(const std::shared_ptr<EventLog>& log, Event event) {
    log->Append(std::move(event));
    Remember(log);
  }
  void Close(const std::shared_ptr<EventLog>& log, absl::Status status) {
    log->Close(std::move(status));
    Remember(log);
  }
  void TellReaders() {
    for (const std::shared_ptr<EventLog>& log : logs_) log->Notify();
    logs_.clear();
  }

 private:
  void Remember(const std::shared_ptr<EventLog>& log) {
    if (logs_.empty() || logs_.back() != log) logs_.push_back(log);
  }

  std::vector<std::shared_ptr<EventLog>> logs_;  // whose readers do not know it yet
};

}  // namespace longhaul::worker::leader
