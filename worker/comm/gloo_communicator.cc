#include "worker/comm/gloo_communicator.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/status_macros.h"
#include "worker/comm/gloo_mesh.h"

namespace longhaul::worker::comm {
namespace {

using Channel = GlooMesh::Channel;
using Transfer = GlooMesh::Transfer;

// Every message begins with a header; a tensor of up to kEagerBytes (a few rows of activations)
// travels right behind it, a larger one when the receiver has said that it fits. A receiver answers
// with verdicts: kGo or kRefused, and kDone when it has the bytes.
constexpr uint32_t kMagic = 0x4c484331;  // "LHC1"
constexpr int64_t kEagerBytes = 64 << 10;
// What of a large sum is in flight at once: bounds the memory beside the tensor.
constexpr int64_t kSegmentElements = 2 << 20;

enum class Kind : uint32_t { kTensor = 1, kSum = 2 };
enum class Verdict : uint32_t { kGo = 1, kRefused = 2, kDone = 3 };

// In the machine's byte order: a group is of one architecture.
struct Header {
  uint32_t magic = kMagic;
  Kind kind = Kind::kTensor;
  uint32_t dtype = 0;
  uint32_t reserved = 0;
  int64_t elements = 0;
};
static_assert(sizeof(Header) % alignof(float) == 0, "floats lie behind it");

Header HeaderOf(Kind kind, const TensorView& tensor) {
  return {.kind = kind, .dtype = static_cast<uint32_t>(tensor.dtype), .elements = tensor.size()};
}

// A header and what came right behind it.
class Frame {
 public:
  explicit Frame(int64_t payload_bytes)
      : bytes_(sizeof(Header) + static_cast<size_t>(payload_bytes)) {}

  void Fill(const Header& header, const TensorView& payload) {
    std::memcpy(bytes_.data(), &header, sizeof(header));
    if (payload.bytes() > 0) {
      std::memcpy(this->payload(), payload.data, static_cast<size_t>(payload.bytes()));
    }
  }
  Header header() const {
    Header header;
    std::memcpy(&header, bytes_.data(), sizeof(header));
    return header;
  }
  std::byte* data() { return bytes_.data(); }
  int64_t size() const { return static_cast<int64_t>(bytes_.size()); }
  std::byte* payload() { return bytes_.data() + sizeof(Header); }

 private:
  std::vector<std::byte> bytes_;
};

// out[i] = sources[0][i] + sources[1][i] + ..., in this order; `out` may be one of the sources.
void SumInOrder(std::span<const float* const> sources, int64_t count, float* out) {
  constexpr int64_t kBlock = 2048;  // stays in the first-level cache
  float sum[kBlock];
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t n = std::min(kBlock, count - begin);
    std::copy_n(sources[0] + begin, n, sum);
    for (const float* source : sources.subspan(1)) {
      for (int64_t i = 0; i < n; ++i) sum[i] += source[begin + i];
    }
    std::copy_n(sum, n, out + begin);
  }
}

class GlooCommunicator final : public Communicator {
 public:
  GlooCommunicator(std::unique_ptr<GlooMesh> mesh, absl::Duration timeout)
      : mesh_(std::move(mesh)), timeout_(timeout), inboxes_(static_cast<size_t>(mesh_->size())) {
    for (int peer = 0; peer < size(); ++peer) {
      if (peer == rank()) continue;
      peers_.push_back(peer);
      AwaitHeader(peer);
      AwaitVerdict(peer);
    }
  }

  int rank() const override { return mesh_->rank(); }
  int size() const override { return mesh_->size(); }

  absl::Status Send(TensorView src, int peer, Stream /*stream*/) override {
    RETURN_IF_ERROR(CheckCall("send", peer, src));
    if (peer == rank()) return absl::InvalidArgumentError("send: a rank cannot be its own peer");
    return SendTensor(src, {&peer, 1});
  }

  absl::Status Recv(TensorView dst, int peer, Stream /*stream*/) override {
    RETURN_IF_ERROR(CheckCall("receive", peer, dst));
    if (peer == rank()) return absl::InvalidArgumentError("receive: a rank cannot be its own peer");
    return ReceiveTensor(dst, peer);
  }

  absl::Status Broadcast(TensorView inout, int root, Stream /*stream*/) override {
    RETURN_IF_ERROR(CheckCall("broadcast", root, inout));
    return rank() == root ? SendTensor(inout, peers_) : ReceiveTensor(inout, root);
  }

  absl::Status AllReduceSum(TensorView inout, Stream /*stream*/) override {
    RETURN_IF_ERROR(CheckCall("all-reduce", 0, inout));
    if (inout.dtype != DType::kFloat32) {
      return absl::InvalidArgumentError("all-reduce: only fp32 is summed");
    }
    const absl::Time deadline = absl::Now() + timeout_;
    const bool eager = inout.bytes() <= kEagerBytes;
    RETURN_IF_ERROR(ExchangeSummands(inout, deadline));
    if (eager) return absl::OkStatus();
    for (int64_t begin = 0; begin < inout.size(); begin += kSegmentElements) {
      const int64_t count = std::min(kSegmentElements, inout.size() - begin);
      RETURN_IF_ERROR(SumSegment(inout.f32() + begin, count, deadline));
    }
    return absl::OkStatus();
  }

  absl::Status Poll() override { return mesh_->Poll(); }
  void Abort() override { mesh_->Abort(absl::StrCat("rank ", rank(), " aborted")); }

 private:
  // Where a peer's next header and verdict arrive. A receive for each is always posted, so that a
  // sender need not wait for one.
  struct Inbox {
    Frame frame{kEagerBytes};
    Verdict verdict = Verdict::kRefused;
    Transfer header_transfer;
    Transfer verdict_transfer;
  };

  absl::Status CheckCall(const char* what, int peer, const TensorView& tensor) {
    RETURN_IF_ERROR(mesh_->Poll());
    if (peer < 0 || peer >= size()) {
      return absl::InvalidArgumentError(
          absl::StrCat(what, ": rank ", peer, " of a group of ", size()));
    }
    if (tensor.rows < 0 || tensor.cols < 0 || (tensor.data == nullptr && tensor.size() > 0)) {
      return absl::InvalidArgumentError(absl::StrCat(what, ": a tensor of ", tensor.rows, " x ",
                                                     tensor.cols, " elements at ",
                                                     tensor.data == nullptr ? "null" : "memory"));
    }
    return absl::OkStatus();
  }

  Inbox& InboxOf(int peer) { return inboxes_[static_cast<size_t>(peer)]; }

  // Posts a receive. That it cannot be posted is told by the call that needs it: a peer may leave
  // after its last message, and the call that this message completes is no failure.
  void AwaitHeader(int peer) {
    Inbox& inbox = InboxOf(peer);
    inbox.header_transfer =
        mesh_->PostRecv(peer, Channel::kHeader, inbox.frame.data(), inbox.frame.size());
  }

  void AwaitVerdict(int peer) {
    Inbox& inbox = InboxOf(peer);
    inbox.verdict_transfer =
        mesh_->PostRecv(peer, Channel::kVerdict, &inbox.verdict, sizeof(Verdict));
  }

  // A broken contract after which nobody knows what the next bytes mean.
  absl::Status OutOfStep(const std::string& what) {
    mesh_->Abort(what);
    return absl::InvalidArgumentError(what);
  }

  // The next header of `peer`, which must be of `kind`. What lies behind it stays in the inbox's
  // frame until AwaitHeader.
  absl::StatusOr<Header> NextHeader(int peer, Kind kind, absl::Time deadline) {
    Inbox& inbox = InboxOf(peer);
    RETURN_IF_ERROR(mesh_->Wait(inbox.header_transfer, deadline));
    const Header header = inbox.frame.header();
    if (header.magic != kMagic || header.kind != kind) {
      return OutOfStep(absl::StrCat("rank ", peer, " makes another call (kind ", header.kind,
                                    ") than rank ", rank(), " (kind ", kind, ")"));
    }
    return header;
  }

  absl::StatusOr<Verdict> NextVerdict(int peer, absl::Time deadline) {
    Inbox& inbox = InboxOf(peer);
    RETURN_IF_ERROR(mesh_->Wait(inbox.verdict_transfer, deadline));
    const Verdict verdict = inbox.verdict;
    AwaitVerdict(peer);
    return verdict;
  }

  absl::Status Answer(int peer, Verdict verdict, absl::Time deadline) {
    Transfer transfer = mesh_->PostSend(peer, Channel::kVerdict, &verdict, sizeof(verdict));
    return mesh_->Wait(transfer, deadline);
  }

  // Fills the outgoing frame and posts it to each of `peers`.
  std::vector<Transfer> PostFrame(Kind kind, const TensorView& tensor, std::span<const int> peers) {
    const bool eager = tensor.bytes() <= kEagerBytes;
    outgoing_.Fill(HeaderOf(kind, tensor), eager ? tensor : TensorView{});
    const int64_t bytes = static_cast<int64_t>(sizeof(Header)) + (eager ? tensor.bytes() : 0);
    std::vector<Transfer> transfers;
    for (const int peer : peers) {
      transfers.push_back(mesh_->PostSend(peer, Channel::kHeader, outgoing_.data(), bytes));
    }
    return transfers;
  }

  absl::Status SendTensor(const TensorView& src, std::span<const int> peers) {
    const absl::Time deadline = absl::Now() + timeout_;
    const bool eager = src.bytes() <= kEagerBytes;
    std::vector<Transfer> transfers = PostFrame(Kind::kTensor, src, peers);
    absl::Status refused;
    std::vector<int> takers;
    for (size_t i = 0; i < peers.size(); ++i) {
      RETURN_IF_ERROR(mesh_->Wait(transfers[i], deadline));
      ASSIGN_OR_RETURN(const Verdict verdict, NextVerdict(peers[i], deadline));
      if (verdict == Verdict::kRefused) {
        refused = absl::InvalidArgumentError(absl::StrCat("send of ", src.bytes(),
                                                          " bytes to rank ", peers[i],
                                                          ", which receives another size or type"));
      } else if (!eager) {
        transfers[i] = mesh_->PostSend(peers[i], Channel::kData, src.data, src.bytes());
        takers.push_back(static_cast<int>(i));
      }
    }
    for (const int i : takers) {
      RETURN_IF_ERROR(mesh_->Wait(transfers[static_cast<size_t>(i)], deadline));
      RETURN_IF_ERROR(NextVerdict(peers[static_cast<size_t>(i)], deadline));
    }
    return refused;
  }

  absl::Status ReceiveTensor(const TensorView& dst, int peer) {
    const absl::Time deadline = absl::Now() + timeout_;
    ASSIGN_OR_RETURN(const Header header, NextHeader(peer, Kind::kTensor, deadline));
    const bool fits =
        header.dtype == static_cast<uint32_t>(dst.dtype) && header.elements == dst.size();
    const bool eager = dst.bytes() <= kEagerBytes;
    if (fits && eager && dst.bytes() > 0) {
      std::memcpy(dst.data, InboxOf(peer).frame.payload(), static_cast<size_t>(dst.bytes()));
    }
    Transfer data;
    if (fits && !eager) {  // before the verdict: the bytes then find their place at once
      data = mesh_->PostRecv(peer, Channel::kData, dst.data, dst.bytes());
    }
    AwaitHeader(peer);
    if (!fits) {
      RETURN_IF_ERROR(Answer(peer, Verdict::kRefused, deadline));
      return absl::InvalidArgumentError(absl::StrCat("receive of ", dst.bytes(),
                                                     " bytes from rank ", peer,
                                                     ", which sends another size or type"));
    }
    if (!eager) {
      RETURN_IF_ERROR(Answer(peer, Verdict::kGo, deadline));
      RETURN_IF_ERROR(mesh_->Wait(data, deadline));
    }
    return Answer(peer, Verdict::kDone, deadline);
  }

  // Sends this rank's header to all and reads theirs. Small summands travel along and are summed
  // here, by every rank for itself. Nobody need answer: if sizes differ, every rank sees one that
  // differs from its own.
  absl::Status ExchangeSummands(const TensorView& inout, absl::Time deadline) {
    const bool eager = inout.bytes() <= kEagerBytes;
    std::vector<Transfer> transfers = PostFrame(Kind::kSum, inout, peers_);
    absl::Status differs;
    std::vector<const float*> summands(static_cast<size_t>(size()), inout.f32());
    for (const int peer : peers_) {
      ASSIGN_OR_RETURN(const Header header, NextHeader(peer, Kind::kSum, deadline));
      if (header.elements != inout.size()) {
        differs = absl::InvalidArgumentError(absl::StrCat(
            "all-reduce of ", inout.size(), " elements, but ", header.elements, " on rank ", peer));
      }
      summands[static_cast<size_t>(peer)] =
          reinterpret_cast<const float*>(InboxOf(peer).frame.payload());
    }
    if (differs.ok() && eager) SumInOrder(summands, inout.size(), inout.f32());
    for (const int peer : peers_) AwaitHeader(peer);
    for (Transfer& transfer : transfers) RETURN_IF_ERROR(mesh_->Wait(transfer, deadline));
    return differs;
  }

  // Sums `count` elements: rank r sums the r-th part for all (in rank order, hence always the same
  // bits) and gives every rank the result. Each rank sends and receives 2 (size - 1) / size times
  // the bytes, the least possible.
  absl::Status SumSegment(float* data, int64_t count, absl::Time deadline) {
    const auto begin_of = [this, count](int part) { return count * part / size(); };
    const auto part_size = [&](int part) { return begin_of(part + 1) - begin_of(part); };
    const auto bytes_of = [](int64_t elements) {
      return elements * static_cast<int64_t>(sizeof(float));
    };
    const int64_t own = part_size(rank());
    scratch_.resize(std::max(scratch_.size(), static_cast<size_t>(own * (size() - 1))));

    std::vector<const float*> summands(static_cast<size_t>(size()), data + begin_of(rank()));
    std::vector<Transfer> parts;    // of this rank's part, from the others
    std::vector<Transfer> results;  // of the others' parts
    std::vector<Transfer> sends;
    // A short tail leaves some ranks without a part; nothing is sent for an empty one.
    for (size_t i = 0; i < peers_.size(); ++i) {
      const int peer = peers_[i];
      float* theirs = data + begin_of(peer);
      float* part = scratch_.data() + static_cast<int64_t>(i) * own;
      summands[static_cast<size_t>(peer)] = part;
      if (own > 0) {
        parts.push_back(mesh_->PostRecv(peer, Channel::kPart, part, bytes_of(own)));
      }
      const int64_t their_bytes = bytes_of(part_size(peer));
      if (their_bytes > 0) {
        // Into the memory that is sent below: the result exists only once the part has been read.
        results.push_back(mesh_->PostRecv(peer, Channel::kSum, theirs, their_bytes));
        sends.push_back(mesh_->PostSend(peer, Channel::kPart, theirs, their_bytes));
      }
    }
    for (Transfer& part : parts) RETURN_IF_ERROR(mesh_->Wait(part, deadline));
    float* sum = data + begin_of(rank());
    SumInOrder(summands, own, sum);
    for (const int peer : peers_) {
      if (own == 0) break;
      sends.push_back(mesh_->PostSend(peer, Channel::kSum, sum, bytes_of(own)));
    }
    for (Transfer& result : results) RETURN_IF_ERROR(mesh_->Wait(result, deadline));
    for (Transfer& send : sends) RETURN_IF_ERROR(mesh_->Wait(send, deadline));
    return absl::OkStatus();
  }

  const std::unique_ptr<GlooMesh> mesh_;
  const absl::Duration timeout_;
  std::vector<int> peers_;       // all other ranks, ascending
  std::vector<float> scratch_;   // the others' summands of one part
  Frame outgoing_{kEagerBytes};  // outlives the transfers of a call
  std::vector<Inbox> inboxes_;   // [size], this rank's own unused
};

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> MakeGlooCommunicator(
    const GlooCommunicatorOptions& options, RendezvousStore& store) {
  ASSIGN_OR_RETURN(auto mesh, GlooMesh::Connect({.rank = options.rank,
                                                 .size = options.size,
                                                 .group = options.group,
                                                 .interface = options.interface,
                                                 .host = options.host,
                                                 .connect_timeout = options.connect_timeout,
                                                 .timeout = options.timeout},
                                                store));
  return std::make_unique<GlooCommunicator>(std::move(mesh), options.timeout);
}

}  // namespace longhaul::worker::comm
