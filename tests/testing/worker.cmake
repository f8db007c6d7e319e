# Models small enough for unit tests, models run in-process, and golden data.
longhaul_library(worker_testing
  HEADERS forwarding_backend.h golden.h model_runner.h poisoning_backend.h random_plans.h rank_group.h
          tiny_model.h
  SOURCES model_runner.cc random_plans.cc rank_group.cc tiny_model.cc
  DEPS    longhaul::testing longhaul::worker_rank longhaul::worker_backend_cpu)

# An engine core without threads, and ranks that a test plays.
longhaul_library(engine_core_testing
  HEADERS engine_core_fixture.h
  DEPS    longhaul::testing longhaul::worker_leader_engine)

# A leader's side of the control stream.
longhaul_library(fake_leader
  HEADERS fake_leader.h
  SOURCES fake_leader.cc
  DEPS    longhaul::testing longhaul::proto)

longhaul_library(pass_key_testing
  HEADERS pass_key.h
  SOURCES pass_key.cc
  DEPS    longhaul::common)

# A rank's side of the control stream, and a whole leader over such ranks.
longhaul_library(fake_rank
  HEADERS fake_rank.h leader_fixture.h
  SOURCES fake_rank.cc leader_fixture.cc
  DEPS    longhaul::testing longhaul::worker_leader longhaul::proto)

# Ranks of one process, or of several, find each other.
longhaul_library(rendezvous_testing
  HEADERS memory_rendezvous.h folder_rendezvous.h
  DEPS    longhaul::worker_comm_gloo)

longhaul_library(simulated_ranks
  HEADERS simulated_ranks.h
  SOURCES simulated_ranks.cc
  DEPS longhaul::worker_leader_core longhaul::testing)
