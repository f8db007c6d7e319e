#include "worker/comm/local_communicator.h"

#include <cstring>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/logging.h"
#include "common/mutex.h"
#include "common/status_macros.h"

namespace longhaul::worker::comm {
namespace {

// What the endpoints of a group share. Thread-safe.
class LocalGroup {
 public:
  LocalGroup(int size, LocalCommunicatorOptions options)
      : size_(size), options_(options), offers_(static_cast<size_t>(size) * size), gone_(size) {}

  int size() const { return size_; }

  // Offers `src` to `to` and waits until it was taken.
  absl::Status Send(int from, int to, TensorView src) EXCLUDES(mutex_) {
    const absl::Time deadline = absl::Now() + options_.timeout;
    MutexLock lock(mutex_);
    Offer& offer = OfferOf(from, to);
    while (offer.state != Offer::kEmpty) {
      RETURN_IF_ERROR(WaitForPeer(to, deadline, "send"));
    }
    offer.tensor = src;
    offer.state = Offer::kOffered;
    changed_.SignalAll();
    while (offer.state == Offer::kOffered) {
      const absl::Status waited = WaitForPeer(to, deadline, "send");
      if (waited.ok() || offer.state != Offer::kOffered) continue;
      offer.state = Offer::kEmpty;  // the buffer is the caller's again
      return waited;
    }
    const bool fits = offer.state == Offer::kTaken;
    offer.state = Offer::kEmpty;
    changed_.SignalAll();
    if (fits) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("send of ", src.bytes(), " bytes to rank ", to,
                                                   ", which receives another size or type"));
  }

  absl::Status Recv(int from, int to, TensorView dst) EXCLUDES(mutex_) {
    const absl::Time deadline = absl::Now() + options_.timeout;
    MutexLock lock(mutex_);
    Offer& offer = OfferOf(from, to);
    while (offer.state != Offer::kOffered) {
      RETURN_IF_ERROR(WaitForPeer(from, deadline, "receive"));
    }
    const bool fits = offer.tensor.dtype == dst.dtype && offer.tensor.size() == dst.size();
    if (fits && dst.bytes() > 0) {
      std::memcpy(dst.data, offer.tensor.data, static_cast<size_t>(dst.bytes()));
    }
    offer.state = fits ? Offer::kTaken : Offer::kRefused;
    changed_.SignalAll();
    if (fits) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("receive of ", dst.bytes(), " bytes from rank ",
                                                   from, ", which sends another size or type"));
  }

  // The group's error, OK while it works.
  absl::Status status() const EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return status_;
  }

  void Abort(const std::string& why) EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    Poison(why);
  }

  void Leave(int rank) EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    gone_[rank] = true;
    changed_.SignalAll();
  }

 private:
  // A buffer on its way from one rank to another.
  struct Offer {
    enum State { kEmpty, kOffered, kTaken, kRefused };
    State state = kEmpty;
    TensorView tensor;
  };

  Offer& OfferOf(int from, int to) REQUIRES(mutex_) {
    return offers_[static_cast<size_t>(from) * size_ + to];
  }

  void Poison(const std::string& why) REQUIRES(mutex_) {
    if (status_.ok()) status_ = absl::UnavailableError(why);
    changed_.SignalAll();
  }

  // Waits for a change. An error means that `peer` will not make one.
  absl::Status WaitForPeer(int peer, absl::Time deadline, const char* what) REQUIRES(mutex_) {
    if (!status_.ok()) return status_;
    if (gone_[peer]) {
      Poison(absl::StrCat(what, ": rank ", peer, " is gone"));
      return status_;
    }
    if (!changed_.WaitUntil(mutex_, deadline) && absl::Now() >= deadline) {
      Poison(absl::StrCat(what, ": rank ", peer, " did not answer within ",
                          absl::FormatDuration(options_.timeout)));
      return status_;
    }
    return absl::OkStatus();
  }

  const int size_;
  const LocalCommunicatorOptions options_;
  mutable Mutex mutex_;
  CondVar changed_;
  std::vector<Offer> offers_ GUARDED_BY(mutex_);  // [from * size + to]
  std::vector<bool> gone_ GUARDED_BY(mutex_);     // [size]
  absl::Status status_ GUARDED_BY(mutex_);
};

class LocalCommunicator final : public Communicator {
 public:
  LocalCommunicator(std::shared_ptr<LocalGroup> group, int rank)
      : group_(std::move(group)), rank_(rank) {}
  ~LocalCommunicator() override { group_->Leave(rank_); }

  int rank() const override { return rank_; }
  int size() const override { return group_->size(); }

  absl::Status Send(TensorView src, int peer, Stream /*stream*/) override {
    RETURN_IF_ERROR(CheckCall("send", peer));
    if (peer == rank_) return absl::InvalidArgumentError("send: a rank cannot be its own peer");
    return group_->Send(rank_, peer, src);
  }

  absl::Status Recv(TensorView dst, int peer, Stream /*stream*/) override {
    RETURN_IF_ERROR(CheckCall("receive", peer));
    if (peer == rank_) return absl::InvalidArgumentError("receive: a rank cannot be its own peer");
    return group_->Recv(peer, rank_, dst);
  }

  absl::Status Broadcast(TensorView inout, int root, Stream stream) override {
    RETURN_IF_ERROR(CheckCall("broadcast", root));
    if (rank_ != root) return Recv(inout, root, stream);
    for (int peer = 0; peer < size(); ++peer) {
      if (peer == root) continue;
      RETURN_IF_ERROR(Send(inout, peer, stream));
    }
    return absl::OkStatus();
  }

  absl::Status AllReduceSum(TensorView inout, Stream stream) override {
    RETURN_IF_ERROR(CheckCall("all-reduce", 0));
    if (inout.dtype != DType::kFloat32) {
      return absl::InvalidArgumentError("all-reduce: only fp32 is summed");
    }
    if (rank_ != 0) {
      RETURN_IF_ERROR(Send(inout, 0, stream));
    } else {
      std::vector<float> other(static_cast<size_t>(inout.size()));
      const TensorView view{other.data(), DType::kFloat32, inout.rows, inout.cols};
      for (int peer = 1; peer < size(); ++peer) {
        RETURN_IF_ERROR(Recv(view, peer, stream));
        for (size_t i = 0; i < other.size(); ++i) inout.f32()[i] += other[i];
      }
    }
    return Broadcast(inout, 0, stream);
  }

  absl::Status Poll() override { return group_->status(); }
  void Abort() override { group_->Abort(absl::StrCat("rank ", rank_, " aborted")); }

 private:
  absl::Status CheckCall(const char* what, int peer) const {
    RETURN_IF_ERROR(group_->status());
    if (peer < 0 || peer >= group_->size()) {
      return absl::InvalidArgumentError(
          absl::StrCat(what, ": rank ", peer, " of a group of ", group_->size()));
    }
    return absl::OkStatus();
  }

  const std::shared_ptr<LocalGroup> group_;
  const int rank_;
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> MakeLocalGroup(int size,
                                                          LocalCommunicatorOptions options) {
  CHECK(size >= 1) << "size=" << size;
  auto group = std::make_shared<LocalGroup>(size, options);
  std::vector<std::unique_ptr<Communicator>> ranks;
  for (int rank = 0; rank < size; ++rank) {
    ranks.push_back(std::make_unique<LocalCommunicator>(group, rank));
  }
  return ranks;
}

}  // namespace longhaul::worker::comm
