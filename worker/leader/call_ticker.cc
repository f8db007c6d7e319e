#include "worker/leader/call_ticker.h"

#include <utility>

#include "absl/time/clock.h"

namespace longhaul::worker::leader {
namespace {

constexpr absl::Duration kPeriod = absl::Milliseconds(990);  // "at least once a second"

}  // namespace

CallTicker::CallTicker() : thread_([this] { Run(); }) {}

CallTicker::~CallTicker() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  changed_.SignalAll();
  thread_.join();
}

void CallTicker::Add(std::shared_ptr<Call> call) {
  {
    MutexLock lock(mutex_);
    calls_.push_back(std::move(call));
  }
  changed_.Signal();
}

void CallTicker::Remove(const Call* call) {
  MutexLock lock(mutex_);
  std::erase_if(calls_, [call](const auto& c) { return c.get() == call; });
}

void CallTicker::Run() {
  absl::Time next = absl::Now() + kPeriod;
  while (true) {
    std::vector<std::shared_ptr<Call>> calls;
    {
      MutexLock lock(mutex_);
      if (calls_.empty() && !stopping_) {
        changed_.Wait(mutex_);
        next = absl::Now() + kPeriod;
      }
      while (!stopping_ && absl::Now() < next) changed_.WaitUntil(mutex_, next);
      if (stopping_) return;
      calls = calls_;
    }
    next += kPeriod;
    for (const std::shared_ptr<Call>& call : calls) call->OnTick(absl::Now());
  }
}

}  // namespace longhaul::worker::leader
