#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "common/types.h"
#include "worker/group_shape.h"
#include "worker/leader/plan_sink.h"
#include "worker/leader/rank_link.h"
#include "worker/step_plan.h"

namespace longhaul::worker::leader {

// The plans that the ranks which are up have not all done, and the way of plans and results past
// the group thread: a token waits for each thread that wakes on its way. The engine thread sends,
// threads of the control server bring what ranks answer, the group thread opens, closes and looks.
//
// Thread-safe. Knows nothing of processes and limits. While it is open the listener hears of each
// step that all ranks have done, in order, under the lock, so that nothing comes after Close.
// Bounded by the plans that the engine has in flight.
class StepsInFlight {
 public:
  // The oldest step.
  struct Head {
    StepId step_id = 0;
    absl::Time since;  // it became the oldest
    std::optional<double> predicted_seconds;
    std::vector<bool> acknowledged;  // by rank
  };

  // `clock` is borrowed.
  StepsInFlight(const GroupShape& shape, const Clock& clock) : shape_(shape), clock_(clock) {}

  // The ranks are up, with these links; their first step is 1. `listener` is borrowed, and used
  // until Close. Precondition: closed, as in the beginning.
  void Open(uint64_t incarnation, std::vector<std::shared_ptr<RankLink>> links,
            GroupListener& listener) EXCLUDES(mutex_);
  // Nothing is sent or told from now on; what was in flight is void. Idempotent.
  void Close() EXCLUDES(mutex_);

  // To every rank, from one thread. Dropped unless this incarnation is up.
  void Send(uint64_t incarnation, StepPlan plan, std::optional<double> predicted_seconds)
      EXCLUDES(mutex_);
  // The rank at the end of `link` has done a step. kFailedPrecondition: its link is not among the
  // open ones, the step is not in flight, or was reported before.
  absl::Status Acknowledge(const RankLink& link, StepResult result) EXCLUDES(mutex_);

  size_t size() const EXCLUDES(mutex_);
  // nullopt: none is in flight.
  std::optional<Head> head() const EXCLUDES(mutex_);
  // When this rank's last answer came; InfinitePast before the first.
  absl::Time last_answer(int32_t rank) const EXCLUDES(mutex_);
  // So much of the oldest step's time passed while nobody could answer.
  void Forgive(absl::Duration lost, absl::Time now) EXCLUDES(mutex_);

 private:
  struct Step {
    StepResult result;               // of the ranks that are done, merged
    std::vector<bool> acknowledged;  // by rank
    std::optional<double> predicted_seconds;
  };

  // Adds what `rank` answers.
  void Merge(size_t rank, StepResult result, Step& step);

  const GroupShape shape_;
  const Clock& clock_;
  mutable Mutex mutex_;
  GroupListener* listener_ GUARDED_BY(mutex_) = nullptr;  // null: closed
  uint64_t incarnation_ GUARDED_BY(mutex_) = 0;
  std::vector<std::shared_ptr<RankLink>> links_ GUARDED_BY(mutex_);  // by rank
  std::vector<absl::Time> last_answers_ GUARDED_BY(mutex_);          // by rank
  std::deque<Step> steps_ GUARDED_BY(mutex_);
  StepId first_step_ GUARDED_BY(mutex_) = 1;  // id of steps_.front()
  absl::Time head_since_ GUARDED_BY(mutex_);  // when the front became the oldest
};

}  // namespace longhaul::worker::leader
