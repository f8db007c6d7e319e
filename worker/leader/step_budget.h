#pragma once

#include <cstdint>

#include "common/cost_model.h"

namespace longhaul::worker::leader {

// What one step may still take: tokens, tokens whose logprobs are asked for, and predicted seconds.
// A value; thread-compatible.
class StepBudget {
 public:
  // The cost of the unit itself comes off `seconds` at once. A cost that is not known yet is zero:
  // then tokens alone bound the step.
  StepBudget(const CostCoefficients& cost, int64_t tokens, int64_t scored_tokens, double seconds)
      : cost_(cost), tokens_(tokens), scored_tokens_(scored_tokens), seconds_(seconds - cost.c) {}

  const CostCoefficients& cost() const { return cost_; }
  int64_t tokens() const { return tokens_; }
  double seconds() const { return seconds_; }  // may be negative

  // Tokens that a sequence with `history` processed ones may still get.
  int64_t TokensBehind(int64_t history, bool scored) const;
  // The same without regard to time: what is due whatever it costs.
  int64_t TokensAtAnyTime(bool scored) const;
  // What `count` tokens behind `history` add to the step.
  double Seconds(int64_t history, int64_t count) const;

  void Take(int64_t history, int64_t count, bool scored);
  // Of a unit that is cut between layers: its part of the time alone.
  void TakeSeconds(double seconds) { seconds_ -= seconds; }

  // A budget of its own with half of what is left, for those who may take no more together.
  StepBudget Half() const;

 private:
  CostCoefficients cost_;
  int64_t tokens_;
  int64_t scored_tokens_;
  double seconds_;
};

}  // namespace longhaul::worker::leader
