"""A runner made of arithmetic: the next token depends on all tokens so far."""

from __future__ import annotations

import threading

import torch

from kt_cli.embedded.handle import RequestHandle
from kt_cli.embedded.stream import Stream

VOCABULARY = 64
EOS = 1


def next_token(tokens):
    return 2 + sum((i + 1) * t for i, t in enumerate(tokens)) % (VOCABULARY - 2)


def decode(ids):
    return "".join(chr(64 + i) for i in ids)


def expected(prompt, count):
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


class FakeRunner:
    """Keeps what was stored at each place of the pool, and checks that nobody overwrote it."""

    def __init__(self, *, batched=True, chunked=True, crop=True, reuse=True):
        self.batched, self.chunked, self.crop, self.reuse = batched, chunked, crop, reuse
        self.places = {}
        self.batches = []
        self.poison = None
        self.broken = None
        self.nan, self.not_a_number = None, float("nan")
        self.gate = threading.Event()
        self.gate.set()

    def open(self, opening):
        start = opening.segment.start
        if opening.source is not None:
            for i in range(opening.reused):
                self.places[start + i] = self.places[opening.source.start + i]

    def close(self, segment, kept):
        pass

    def run(self, jobs):
        assert self.gate.wait(10)
        if self.broken is not None:
            raise self.broken
        if any(self.poison in job.tokens for job in jobs):
            raise ArithmeticError("poisoned")
        self.batches.append([len(job.tokens) for job in jobs])
        rows = [self._run(job) for job in jobs]
        return torch.stack([row for row in rows if row is not None] or [torch.empty(0)])

    def _run(self, job):
        start, stored = job.segment.start, len(job.segment.tokens)
        for i, token in enumerate(job.tokens):
            self.places[start + stored + i] = token
        seen = [self.places[start + i] for i in range(stored + len(job.tokens))]
        assert seen == [*job.segment.tokens, *job.tokens]
        if not job.last:
            return None
        row = torch.zeros(VOCABULARY)
        row[next_token(seen)] = self.not_a_number if self.nan in seen else 10.0
        return row


def stream_for(worker, prompt, sampling, decoder=decode):
    handle = RequestHandle(len(prompt), worker.wake)
    stream = Stream(tuple(prompt), sampling, handle, decoder, (EOS,), VOCABULARY)
    worker.submit(stream)
    return handle


def tokens_of(handle):
    return [token for chunk in handle for token in chunk.token_ids]
