#include "mailbox.h"

#include <pthread.h>

#include <algorithm>
#include <mutex>
#include <new>
#include <stdexcept>
#include <thread>
#include <vector>

#include "memory.h"
#include "pool.h"

namespace kt {
namespace {

constexpr long kSpin = 1000000, kShortestNap = 50000, kLongestNap = 20000000, kNapShare = 50;  // ns

class Mailboxes {
 public:
  Mailboxes() : region_(sizeof(MailboxWords) * kMailboxes), words_(new (region_.data()) MailboxWords[kMailboxes]) {
    for (int i = kMailboxes; i-- > 0;) free_.push_back(i);
  }

  MailboxWords* words() { return words_; }

  int add(HostCall& call) {
    std::lock_guard<std::mutex> hold(lock_);
    if (free_.empty()) throw std::runtime_error("all " + std::to_string(kMailboxes) + " mailboxes are taken");
    const int at = free_.back();
    free_.pop_back();
    words_[at].request.store(0);
    words_[at].answer.store(1);
    calls_[at] = &call;
    end_.store(std::max(end_.load(), at + 1));
    if (!started_) std::thread([this] { serve(); }).detach();
    started_ = true;
    return at;
  }

  void remove(int at) {
    std::lock_guard<std::mutex> hold(lock_);  // the thread holds it while a call runs
    calls_[at] = nullptr;
    free_.push_back(at);
  }

  void wake() {
    bell_.fetch_add(1);
    if (napping_.load()) futex_wake_all(bell_);
  }

 private:
  // True if there was one.
  bool serve_next() {
    const int end = end_.load(std::memory_order_acquire);
    for (int i = 0; i < end; ++i) {
      if (words_[i].request.load(std::memory_order_acquire) == 0) continue;
      answer(i);
      return true;
    }
    return false;
  }

  void answer(int at) {
    std::lock_guard<std::mutex> hold(lock_);
    const uint32_t tokens = words_[at].request.load(std::memory_order_relaxed);
    words_[at].request.store(0, std::memory_order_relaxed);
    if (calls_[at]) calls_[at]->run(int(tokens));
    words_[at].answer.store(1, std::memory_order_release);
    stay_awake(kSpin);
  }

  bool serve_while_spinning() {
    for (int i = 0; i < 64; ++i) {
      if (serve_next()) return true;
      _mm_pause();
    }
    return false;
  }

  void nap(uint32_t heard, long idle) {
    const long length = std::min(kLongestNap, std::max(kShortestNap, idle / kNapShare));
    napping_.store(true);
    futex_wait_for(bell_, heard, length);
    napping_.store(false);
  }

  void serve() {
    uint32_t heard = bell_.load();
    for (long last = now();;) {
      const uint32_t rung = bell_.load();
      if (serve_while_spinning() || rung != heard) {
        last = now();
        heard = rung;
        continue;
      }
      const long idle = now() - last;
      if (idle > kSpin) nap(heard, idle);
    }
  }

  Region region_;
  MailboxWords* words_;
  HostCall* calls_[kMailboxes] = {};
  std::mutex lock_;
  std::vector<int> free_;
  std::atomic<int> end_{0};
  bool started_ = false;
  Word bell_{0};
  std::atomic<bool> napping_{false};
};

// Never destroyed: its thread runs until the process ends, and a GPU may still write to the words.
// A forked child has neither that thread nor a CUDA context, and starts afresh.
Mailboxes* g_mailboxes = nullptr;
std::mutex* g_making = new std::mutex;

void after_fork() {
  g_mailboxes = nullptr;
  g_making = new std::mutex;
}

Mailboxes& mailboxes() {
  static const int once = pthread_atfork(nullptr, nullptr, after_fork);
  (void)once;
  std::lock_guard<std::mutex> hold(*g_making);
  if (!g_mailboxes) g_mailboxes = new Mailboxes;
  return *g_mailboxes;
}

}  // namespace

MailboxWords* mailbox_words() { return mailboxes().words(); }
int add_mailbox(HostCall& call) { return mailboxes().add(call); }
void remove_mailbox(int mailbox) { mailboxes().remove(mailbox); }
void wake_mailboxes() { mailboxes().wake(); }

}  // namespace kt
