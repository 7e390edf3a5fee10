#include "submit.h"

#include <pthread.h>

#include <condition_variable>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <stdexcept>
#include <thread>

namespace kt {
namespace {

class Queue {
 public:
  explicit Queue(uint64_t before) : pushed_(before), finished_(before) {
    std::thread([this] { serve(); }).detach();
  }

  uint64_t push(std::function<void()> task) {
    std::lock_guard<std::mutex> hold(lock_);
    tasks_.push_back(std::move(task));
    changed_.notify_all();
    return ++pushed_;
  }

  std::exception_ptr wait(uint64_t ticket) {
    std::unique_lock<std::mutex> hold(lock_);
    changed_.wait(hold, [&] { return finished_ >= ticket; });
    const auto failed = errors_.find(ticket);
    if (failed == errors_.end()) return nullptr;
    const std::exception_ptr error = failed->second;
    errors_.erase(failed);
    return error;
  }

  uint64_t finished() {
    std::lock_guard<std::mutex> hold(lock_);
    return finished_;
  }

  // In a forked child, which has no thread that could hold the lock.
  uint64_t pushed_before_fork() const { return pushed_; }
  uint64_t finished_before_fork() const { return finished_; }

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
    } catch (...) { return std::current_exception(); }
    return nullptr;
  }

  std::mutex lock_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  std::map<uint64_t, std::exception_ptr> errors_;
  uint64_t pushed_, finished_;
};

// Never destroyed: its thread may still be waiting when the process ends. A forked child, which has
// no such thread, makes its own and numbers on; calls that the parent had not finished are lost to it.
Queue* g_queue = nullptr;
std::mutex* g_making = new std::mutex;
uint64_t g_pushed = 0, g_lost = 0;  // tickets of the parent: all of them, those lost start behind g_lost

void after_fork() {
  if (g_queue) {
    g_lost = g_queue->finished_before_fork();
    g_pushed = g_queue->pushed_before_fork();
  }
  g_queue = nullptr;
  g_making = new std::mutex;
}

Queue& queue() {
  static const int once = pthread_atfork(nullptr, nullptr, after_fork);
  (void)once;
  std::lock_guard<std::mutex> hold(*g_making);
  if (!g_queue) g_queue = new Queue(g_pushed);
  return *g_queue;
}

bool lost(uint64_t ticket) { return ticket > g_lost && ticket <= g_pushed; }

}  // namespace

uint64_t submit(std::function<void()> task) { return queue().push(std::move(task)); }

std::exception_ptr wait_for(uint64_t ticket) {
  Queue& here = queue();
  if (lost(ticket))
    return std::make_exception_ptr(
        std::runtime_error("the process forked before this call was done: its result "
                           "is with the parent"));
  return here.wait(ticket);
}

uint64_t last_finished() { return queue().finished(); }

}  // namespace kt
