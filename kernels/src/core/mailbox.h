// Calls that a GPU starts by writing a word and whose end it reads from another one.
//
// Every call has a pair of words in page-locked memory. One thread reads the first words, runs what
// was asked for, and writes the second ones. While calls come it spins; once none has come for a while
// it naps, the longer the longer it has been idle, so a call that nobody announced by wake() is late
// by a fiftieth of the pause before it, and by 20 ms at most.
#pragma once
#include <cstddef>
#include <cstdint>

#include "host_call.h"
#include "wait.h"

namespace kt {

constexpr int kMailboxes = 16384;

struct alignas(8) MailboxWords {
  Word answer;   // 1: nothing is asked for; the asker sets it to 0 before it asks, or in the same store
  Word request;  // so many tokens are asked for; the thread sets it to 0
};
static_assert(sizeof(MailboxWords) == 8, "a kernel writes both at once, the request into the upper half");

// All of them: page-aligned, and there until the process ends.
MailboxWords* mailbox_words();

// The call stays where it is until it is removed. Throws std::runtime_error when all are taken.
int add_mailbox(HostCall& call);
void remove_mailbox(int mailbox);  // waits for a call that is running

// The next calls are near: the thread spins again from now on. Cheap, and no CUDA call.
void wake_mailboxes();

}  // namespace kt
