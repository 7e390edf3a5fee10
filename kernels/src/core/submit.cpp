#include "submit.h"

#include <pthread.h>

#include <condition_variable>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <thread>

namespace kt {
namespace {

class Queue {
 public:
  Queue() { std::thread([this] { serve(); }).detach(); }

  uint64_t push(std::function<void()> task) {
    std::lock_guard<std::mutex> hold(lock_);
    tasks_.push_back(std::move(task));
    changed_.notify_all();
    return ++pushed_;
  }

  void wait(uint64_t ticket) {
    std::unique_lock<std::mutex> hold(lock_);
    changed_.wait(hold, [&] { return finished_ >= ticket; });
    const auto failed = errors_.find(ticket);
    if (failed == errors_.end()) return;
    const std::exception_ptr error = failed->second;
    errors_.erase(failed);
    std::rethrow_exception(error);
  }

 private:
  void serve() {
    for (;;) {
      std::unique_lock<std::mutex> hold(lock_);
      changed_.wait(hold, [&] { return !tasks_.empty(); });
      const std::function<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      hold.unlock();
      const std::exception_ptr error = attempt(task);
      hold.lock();
      ++finished_;
      if (error) errors_[finished_] = error;
      changed_.notify_all();
    }
  }

  static std::exception_ptr attempt(const std::function<void()>& task) {
    try {
      task();
    } catch (...) {
      return std::current_exception();
    }
    return nullptr;
  }

  std::mutex lock_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  std::map<uint64_t, std::exception_ptr> errors_;
  uint64_t pushed_ = 0, finished_ = 0;
};

// Never destroyed: its thread may still be waiting when the process ends. A forked child, which has
// no such thread, makes its own.
Queue* g_queue = nullptr;
std::mutex* g_making = new std::mutex;

void after_fork() {
  g_queue = nullptr;
  g_making = new std::mutex;
}

Queue& queue() {
  static const int once = pthread_atfork(nullptr, nullptr, after_fork);
  (void)once;
  std::lock_guard<std::mutex> hold(*g_making);
  if (!g_queue) g_queue = new Queue;
  return *g_queue;
}

}  // namespace

uint64_t submit(std::function<void()> task) { return queue().push(std::move(task)); }
void wait_for(uint64_t ticket) { queue().wait(ticket); }

}  // namespace kt
