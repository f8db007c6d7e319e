#include "router/running_executions.h"

#include <algorithm>
#include <utility>

#include "common/logging.h"

namespace longhaul::router {

RunningExecutions::RunningExecutions(const WorkerClient& workers, OnEvent on_event)
    : workers_(workers), on_event_(std::move(on_event)) {}

uint64_t RunningExecutions::Start(const ExecutionKey& key, const std::string& address,
                                  ExecutionSpec spec) {
  const uint64_t number = next_number_++;
  Running& running = running_[number];
  running.key = key;
  running.address = address;
  running.call = workers_.Start(address, std::move(spec), [this, number](ExecutionEvent event) {
    on_event_(number, std::move(event));
  });
  return number;
}

const RunningExecutions::Running& RunningExecutions::At(uint64_t number) const {
  const auto found = running_.find(number);
  CHECK(found != running_.end()) << "execution=" << number << " is unknown";
  return found->second;
}

std::optional<ExecutionKey> RunningExecutions::Find(uint64_t number) const {
  const Running& running = At(number);
  if (running.detached) return std::nullopt;
  return running.key;
}

void RunningExecutions::Resume(uint64_t number) { At(number).call->Resume(); }

void RunningExecutions::Detach(uint64_t number) {
  At(number).call->Cancel();
  running_.at(number).detached = true;
}

void RunningExecutions::LoseAt(const std::vector<std::string>& addresses) {
  if (addresses.empty()) return;
  for (const auto& [number, running] : running_) {
    const auto found = std::find(addresses.begin(), addresses.end(), running.address);
    if (found != addresses.end() && !running.detached) running.call->Lose();
  }
}

void RunningExecutions::Remove(uint64_t number) {
  At(number);
  running_.erase(number);
}

}  // namespace longhaul::router
