// The cached prefixes as a router hears of them, over real gRPC from a leader's service.
#include "worker/leader/watch_call.h"

#include <grpc/grpc.h>
#include <grpcpp/grpcpp.h>

#include <set>
#include <vector>

#include "absl/time/clock.h"
#include "common/clock.h"
#include "longhaul/v1/worker.grpc.pb.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "worker/leader/engine.h"
#include "worker/leader/worker_service.h"

namespace longhaul::worker::leader {
namespace {

class NoRanks : public PlanSink {
 public:
  void Send(uint64_t, StepPlan, std::optional<double>) override {}
  void Fail(uint64_t, std::string) override {}
};

Digest Id(uint64_t i) { return {i, i * 0x9E3779B97F4A7C15ULL}; }

std::vector<Digest> Ids(uint64_t first, uint64_t last) {
  std::vector<Digest> ids;
  for (uint64_t i = first; i <= last; ++i) ids.push_back(Id(i));
  return ids;
}

class WatchCallTest : public ::testing::Test {
 protected:
  // gRPC 1.51 may wait for ever when it goes with its last user and comes back: it stays.
  static void SetUpTestSuite() { grpc_init(); }

  WatchCallTest()
      : engine_({.scheduler = {.max_model_len = 10'000,
                               .max_num_batched_tokens = 512,
                               .max_num_seqs = 4,
                               .num_layers = 2},
                 .vocab_size = 1000},
                ranks_, requests_, board_, metrics_, clock_),
        service_(WorkerService::Start(
                     "unix:" + folder_.path() + "/leader",
                     {.name = "fake", .prefix_root = {3, 4}, .prefix_root_max_tokens = 777},
                     engine_, requests_, board_, clock_)
                     .value()),
        stub_(v1::Worker::NewStub(
            grpc::CreateChannel(service_->address(), grpc::InsecureChannelCredentials()))) {
    engine_.OnGroupUp(1, {.kv = {.blocks = 100}, .hardware = "none"});
    while (!board_.Get().ready()) absl::SleepFor(absl::Milliseconds(1));
    request_.set_protocol_version(kProtocolVersion);
  }

  // One Watch that keeps a set of what it was told.
  struct Watcher {
    explicit Watcher(WatchCallTest& test) : stream(test.stub_->Watch(&context, test.request_)) {
      EXPECT_TRUE(stream->Read(&event));
      hello = event.hello();
    }
    ~Watcher() {
      context.TryCancel();
      while (stream->Read(&event)) {
      }
      stream->Finish();
    }
    // Reads until the next delta.
    v1::CacheDelta Next() {
      do {
        if (!stream->Read(&event)) {
          ADD_FAILURE() << "the watch ended";
          return {};
        }
      } while (!event.has_cache_delta());
      const v1::CacheDelta& delta = event.cache_delta();
      EXPECT_EQ(delta.sequence(), ++sequence);
      if (delta.reset()) known.clear();
      for (const std::string& bytes : delta.added()) known.insert(ToDigest(bytes));
      for (const std::string& bytes : delta.removed()) known.erase(ToDigest(bytes));
      return delta;
    }
    static Digest ToDigest(const std::string& bytes) {
      Digest digest;
      EXPECT_TRUE(Digest::FromBytes(bytes, &digest));
      return digest;
    }

    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReader<v1::WatchEvent>> stream;
    v1::WatchEvent event;
    v1::Hello hello;
    uint64_t sequence = 0;
    std::set<Digest> known;
  };
  void Publish(std::vector<Digest> added, std::vector<Digest> removed) {
    board_.prefixes().Publish({.added = std::move(added), .removed = std::move(removed)});
    board_.Publish({.incarnation = 1});
  }

  const longhaul::testing::TempDir folder_;
  const SystemClock clock_;
  NoRanks ranks_;
  RequestTable requests_;
  LoadBoard board_;
  LeaderMetrics metrics_;
  Engine engine_;
  std::unique_ptr<WorkerService> service_;
  std::unique_ptr<v1::Worker::Stub> stub_;
  v1::WatchRequest request_;
};

TEST_F(WatchCallTest, TellsWhatIsCachedAndThenWhatChanges) {
  Publish(Ids(1, 3), {});
  Watcher watcher(*this);
  EXPECT_EQ(watcher.hello.prefix_root(), (Digest{3, 4}.ToBytes()));
  EXPECT_EQ(watcher.hello.prefix_root_max_tokens(), 777u);
  EXPECT_TRUE(watcher.Next().reset());
  EXPECT_THAT(watcher.known, ::testing::ElementsAreArray(Ids(1, 3)));
  Publish(Ids(4, 5), Ids(1, 1));
  EXPECT_FALSE(watcher.Next().reset());
  EXPECT_THAT(watcher.known, ::testing::ElementsAreArray(Ids(2, 5)));
}

TEST_F(WatchCallTest, TellsManyInPartsThatFitAMessage) {
  Publish(Ids(1, 10'000), {});
  Watcher watcher(*this);
  for (int part = 0; part < 3; ++part) {
    const v1::CacheDelta delta = watcher.Next();
    EXPECT_EQ(delta.reset(), part == 0);
    EXPECT_LE(delta.added_size(), 4096);
  }
  EXPECT_EQ(watcher.known.size(), 10'000u);
  Publish(Ids(10'001, 20'000), Ids(1, 10'000));
  while (watcher.known.size() != 10'000 || watcher.known.contains(Id(1)) ||
         !watcher.known.contains(Id(20'000))) {
    const v1::CacheDelta delta = watcher.Next();
    EXPECT_FALSE(delta.reset());
    EXPECT_LE(delta.added_size() + delta.removed_size(), 4096);
  }
  EXPECT_EQ(*watcher.known.begin(), Id(10'001));
}

TEST_F(WatchCallTest, SaysNothingOfPrefixesWhileThereAreNone) {
  Watcher watcher(*this);
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(watcher.stream->Read(&watcher.event));
    EXPECT_TRUE(watcher.event.has_load());
    board_.Publish({.incarnation = 1});
  }
}

}  // namespace
}  // namespace longhaul::worker::leader
