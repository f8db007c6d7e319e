#include "worker/leader/step_budget.h"

#include <algorithm>

namespace longhaul::worker::leader {

int64_t StepBudget::TokensAtAnyTime(bool scored) const {
  return scored ? std::min(tokens_, scored_tokens_) : tokens_;
}

int64_t StepBudget::TokensBehind(int64_t history, bool scored) const {
  return std::min(TokensAtAnyTime(scored), TokensWithin(cost_, history, seconds_));
}

double StepBudget::Seconds(int64_t history, int64_t count) const {
  UnitShape shape;
  shape.Add(history, count);
  return PredictSeconds(cost_, shape) - cost_.c;
}

void StepBudget::Take(int64_t history, int64_t count, bool scored) {
  tokens_ -= count;
  if (scored) scored_tokens_ -= count;
  seconds_ -= Seconds(history, count);
}

StepBudget StepBudget::Half() const {
  StepBudget half = *this;
  half.tokens_ /= 2;
  half.scored_tokens_ /= 2;
  half.seconds_ /= 2;
  return half;
}

}  // namespace longhaul::worker::leader
