#include "worker/comm/gloo_mesh.h"

#include <gloo/common/error.h>
#include <gloo/transport/context.h>
#include <gloo/transport/pair.h>
#include <gloo/transport/tcp/device.h>
#include <gloo/transport/unbound_buffer.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <exception>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "worker/comm/local_address.h"

namespace longhaul::worker::comm {
namespace {

using std::chrono::milliseconds;

// Gloo waits this many times its timeout for a connection.
constexpr int kGlooConnectFactor = 5;
// A wait that only an event ends.
constexpr milliseconds kForever = std::chrono::hours(24 * 365);

milliseconds Milliseconds(absl::Duration duration) {
  return std::clamp(absl::ToChronoMilliseconds(duration), milliseconds(0), kForever);
}

// Gloo leaks, or reads uninitialised memory, where it cannot bind: it is given what it can.
absl::StatusOr<std::shared_ptr<gloo::transport::Device>> Bind(const GlooMesh::Options& options) {
  ASSIGN_OR_RETURN(const std::string address, LocalAddress(options.host, options.interface));
  try {
    return gloo::transport::tcp::CreateDevice(address.c_str());
  } catch (const std::exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat("Gloo cannot bind to ", address, ": ", error.what()));
  }
}

// What a rank publishes: this prefix, then for each rank the address where it expects that one.
// Gloo's addresses are socket structures of one size, in the machine's byte order.
constexpr char kAddressFormat[] = "longhaul-gloo-1\n";

}  // namespace

struct GlooMesh::Watch {
  char never_sent = 0;
  Transfer transfer;
  std::thread thread;
};

GlooMesh::Transfer::Transfer() = default;
GlooMesh::Transfer::~Transfer() = default;
GlooMesh::Transfer::Transfer(Transfer&& other) noexcept = default;
GlooMesh::Transfer& GlooMesh::Transfer::operator=(Transfer&& other) noexcept = default;

GlooMesh::GlooMesh(Options options, std::shared_ptr<gloo::transport::Device> device,
                   std::shared_ptr<gloo::transport::Context> context)
    : options_(std::move(options)),
      device_(std::move(device)),
      context_(std::move(context)),
      lost_(static_cast<size_t>(options_.size)) {}

GlooMesh::~GlooMesh() {
  for (auto& watch : watches_) {
    if (!watch->thread.joinable()) continue;
    Interrupt(watch->transfer);
    watch->thread.join();
  }
  watches_.clear();
  // The last owner closes the connections; what was sent before still arrives.
  context_.reset();
  device_.reset();
}

absl::StatusOr<std::unique_ptr<GlooMesh>> GlooMesh::Connect(const Options& options,
                                                            RendezvousStore& store) {
  if (options.size < 1 || options.rank < 0 || options.rank >= options.size) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank ", options.rank, " of a group of ", options.size));
  }
  if (options.size == 1) {
    return std::unique_ptr<GlooMesh>(new GlooMesh(options, nullptr, nullptr));
  }
  struct sigaction on_pipe {};
  if (sigaction(SIGPIPE, nullptr, &on_pipe) == 0 && on_pipe.sa_handler == SIG_DFL) {
    return absl::FailedPreconditionError(
        "Gloo: a lost peer would end this process, which does not ignore SIGPIPE");
  }
  ASSIGN_OR_RETURN(auto device, Bind(options));
  std::unique_ptr<GlooMesh> mesh;
  try {
    auto context = device->createContext(options.rank, options.size);
    // Never 0, which is "no limit" to Gloo.
    context->setTimeout(
        std::max(milliseconds(1), Milliseconds(options.connect_timeout / kGlooConnectFactor)));
    mesh = std::unique_ptr<GlooMesh>(new GlooMesh(options, std::move(device), std::move(context)));
    RETURN_IF_ERROR(mesh->ConnectPeers(store)) << "connecting rank " << options.rank;
  } catch (const std::exception& error) {
    return absl::UnavailableError(
        absl::StrCat("connecting rank ", options.rank, ": ", error.what()));
  }
  mesh->WatchPeers();
  return mesh;
}

absl::Status GlooMesh::ConnectPeers(RendezvousStore& store) {
  const absl::Time deadline = absl::Now() + options_.connect_timeout;
  const auto key = [this](int rank) { return absl::StrCat(options_.group, "/gloo/", rank); };
  // A pair listens from its creation on, so whoever reads our addresses can connect.
  std::string ours = kAddressFormat;
  size_t address_bytes = 0;
  for (int peer = 0; peer < size(); ++peer) {
    if (peer == rank()) continue;
    const std::vector<char> address = context_->createPair(peer)->address().bytes();
    address_bytes = address.size();
    ours.append(address.begin(), address.end());
  }
  RETURN_IF_ERROR(store.Set(key(rank()), ours));
  for (int peer = 0; peer < size(); ++peer) {
    if (peer == rank()) continue;
    ASSIGN_OR_RETURN(const std::string theirs, store.Get(key(peer), deadline));
    if (theirs.size() != ours.size() ||
        theirs.compare(0, strlen(kAddressFormat), kAddressFormat) != 0) {
      return absl::InvalidArgumentError(absl::StrCat("rank ", peer, " published ", theirs.size(),
                                                     " bytes that are not ", size() - 1,
                                                     " addresses of this version"));
    }
    const size_t place = static_cast<size_t>(rank() < peer ? rank() : rank() - 1);
    const auto begin =
        theirs.begin() + static_cast<ptrdiff_t>(strlen(kAddressFormat) + place * address_bytes);
    context_->getPair(peer)->connect(
        std::vector<char>(begin, begin + static_cast<ptrdiff_t>(address_bytes)));
  }
  return absl::OkStatus();
}

// Gloo tells only operations that wait for their turn of a broken connection: not one whose bytes
// already flow, and nobody while none is posted. A receive that never gets a message always hears.
void GlooMesh::WatchPeers() {
  for (int peer = 0; peer < size(); ++peer) {
    if (peer == rank()) continue;
    Watch& watch = *watches_.emplace_back(std::make_unique<Watch>());
    watch.transfer = PostRecv(peer, Channel::kWatch, &watch.never_sent, 1);
    watch.thread = std::thread([this, peer, &watch] {
      std::string why;
      const Outcome outcome = WaitOnce(watch.transfer, absl::InfiniteDuration(), why);
      if (outcome == Outcome::kFailed) PeerLost(peer, why);
    });
  }
}

GlooMesh::Transfer GlooMesh::PostSend(int peer, Channel channel, const void* data, int64_t bytes) {
  // Gloo has one type for both directions; it only reads what it sends.
  return Post(peer, channel, const_cast<void*>(data), bytes, /*receives=*/false);
}

GlooMesh::Transfer GlooMesh::PostRecv(int peer, Channel channel, void* data, int64_t bytes) {
  return Post(peer, channel, data, bytes, /*receives=*/true);
}

GlooMesh::Transfer GlooMesh::Post(int peer, Channel channel, void* data, int64_t bytes,
                                  bool receives) {
  CHECK(peer >= 0 && peer < size() && peer != rank() && bytes >= 1)
      << "peer=" << peer << " bytes=" << bytes;
  Transfer transfer;
  transfer.peer_ = peer;
  transfer.receives_ = receives;
  try {
    transfer.buffer_ = context_->createUnboundBuffer(data, static_cast<size_t>(bytes));
    if (receives) {
      transfer.buffer_->recv(peer, static_cast<uint64_t>(channel));
    } else {
      transfer.buffer_->send(peer, static_cast<uint64_t>(channel));
    }
  } catch (const std::exception& error) {
    transfer.buffer_.reset();
    transfer.why_not_posted_ = error.what();
  }
  return transfer;
}

GlooMesh::Outcome GlooMesh::WaitOnce(Transfer& transfer, absl::Duration timeout,
                                     std::string& why) const {
  if (transfer.buffer_ == nullptr) {
    why = transfer.why_not_posted_;
    return Outcome::kFailed;
  }
  try {
    const bool done = transfer.receives_ ? transfer.buffer_->waitRecv(Milliseconds(timeout))
                                         : transfer.buffer_->waitSend(Milliseconds(timeout));
    return done ? Outcome::kDone : Outcome::kInterrupted;
  } catch (const std::exception& error) {
    why = error.what();
    return Outcome::kFailed;
  }
}

absl::Status GlooMesh::Wait(Transfer& transfer, absl::Time deadline) {
  bool hopeless = false;
  {
    MutexLock lock(mutex_);
    waiting_ = &transfer;
    hopeless = !status_.ok() || !lost_[static_cast<size_t>(transfer.peer_)].empty();
  }
  std::string why;
  Outcome outcome = Outcome::kInterrupted;
  if (!hopeless) outcome = WaitOnce(transfer, deadline - absl::Now(), why);
  // The peer may have gone after its message came: a look without waiting.
  if (outcome == Outcome::kInterrupted) outcome = WaitOnce(transfer, absl::ZeroDuration(), why);
  const bool late = !hopeless && absl::Now() >= deadline;
  {
    MutexLock lock(mutex_);
    waiting_ = nullptr;
    const std::string& lost = lost_[static_cast<size_t>(transfer.peer_)];
    if (!late && !lost.empty()) why = lost;
  }
  if (outcome == Outcome::kDone) return absl::OkStatus();
  if (late) why = absl::StrCat("no answer within ", absl::FormatDuration(options_.timeout));
  return Poison(absl::StrCat(transfer.receives_ ? "receive from" : "send to", " rank ",
                             transfer.peer_, ": ", why));
}

void GlooMesh::Interrupt(Transfer& transfer) const {
  if (transfer.buffer_ == nullptr) return;
  if (transfer.receives_) {
    transfer.buffer_->abortWaitRecv();
  } else {
    transfer.buffer_->abortWaitSend();
  }
}

void GlooMesh::PeerLost(int peer, const std::string& why) {
  MutexLock lock(mutex_);
  lost_[static_cast<size_t>(peer)] = absl::StrCat("connection lost: ", why);
  if (waiting_ != nullptr && waiting_->peer_ == peer) Interrupt(*waiting_);
}

absl::Status GlooMesh::Poll() {
  std::string why;
  {
    MutexLock lock(mutex_);
    if (!status_.ok()) return status_;
    const auto lost = std::find_if(lost_.begin(), lost_.end(),
                                   [](const std::string& reason) { return !reason.empty(); });
    if (lost == lost_.end()) return absl::OkStatus();
    why = absl::StrCat("rank ", lost - lost_.begin(), ": ", *lost);
  }
  return Poison(why);
}

void GlooMesh::Abort(const std::string& why) { Poison(why).IgnoreError(); }

absl::Status GlooMesh::Poison(const std::string& why) {
  absl::Status status;
  {
    MutexLock lock(mutex_);
    if (!status_.ok()) return status_;
    status = status_ = absl::UnavailableError(why);
    if (waiting_ != nullptr) Interrupt(*waiting_);
  }
  if (context_ == nullptr) return status;
  // Each pair has a lock of its own and is closed once, whoever comes first.
  for (int peer = 0; peer < size(); ++peer) {
    if (peer != rank()) context_->getPair(peer)->close();
  }
  return status;
}

}  // namespace longhaul::worker::comm
