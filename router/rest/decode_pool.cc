#include "router/rest/decode_pool.h"

#include <utility>

#include "router/error_detail.h"

namespace longhaul::router::rest {

DecodePool::DecodePool(int num_threads, size_t capacity) : queue_(capacity) {
  for (int i = 0; i < num_threads; i++) {
    threads_.emplace_back([this] {
      while (std::optional<std::function<void()>> task = queue_.Pop(absl::InfiniteFuture())) {
        (*task)();
      }
    });
  }
}

absl::Status DecodePool::Post(std::function<void()> task) {
  const absl::Status status = queue_.Push(std::move(task));
  if (absl::IsCancelled(status)) return absl::UnavailableError("the server is shutting down");
  if (status.ok()) return status;
  return WithRetryAfter(absl::ResourceExhaustedError("too many request bodies wait to be read: " +
                                                     std::string(status.message())),
                        1);
}

void DecodePool::Stop() {
  queue_.Close();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

}  // namespace longhaul::router::rest
