"""What becomes of the tokens of one request: text, log-probabilities, the reason to end."""

from __future__ import annotations

from collections.abc import Collection

import torch

from kt_cli.embedded.api import Chunk, FinishReason, Sampling, TokenLogprob
from kt_cli.embedded.handle import RequestHandle
from kt_cli.embedded.sampler import SamplerState, logprobs
from kt_cli.embedded.scheduler import Request
from kt_cli.embedded.text import Decode, Detokenizer, StopFilter


class Stream:
    def __init__(
        self,
        prompt: tuple[int, ...],
        sampling: Sampling,
        handle: RequestHandle,
        decode: Decode,
        eos: Collection[int],
        vocabulary: int,
    ) -> None:
        self.request = Request(prompt, sampling.max_tokens, self)
        self.sampling = sampling
        self.handle = handle
        self.state = SamplerState(sampling, prompt, vocabulary)
        self._decode = decode
        self._eos = () if sampling.ignore_eos else eos
        self._text = Detokenizer(decode, prompt)
        self._stop = StopFilter(sampling.stop)

    def push(self, token: int, logits: torch.Tensor) -> FinishReason | None:
        """Takes a token sampled from `logits` [vocabulary] and hands its chunk to the client."""
        self.request.generated.append(token)
        reported = self._logprobs(token, logits)
        text, reason = self._step(token)
        self.handle.put(Chunk(text, (token,), reported, reason))
        return reason

    def end(self, reason: FinishReason) -> None:
        self.handle.put(Chunk("", finish_reason=reason))

    def _step(self, token: int) -> tuple[str, FinishReason | None]:
        if token in self._eos:
            return self._rest(), "stop"
        cut = self._stop.push(self._text.push(token))
        if cut.stopped:
            return cut.text, "stop"
        if len(self.request.generated) < self.request.max_tokens:
            return cut.text, None
        return cut.text + self._rest(), "length"

    def _rest(self) -> str:
        cut = self._stop.push(self._text.rest())
        return cut.text if cut.stopped else cut.text + self._stop.rest()

    def _logprobs(self, token: int, logits: torch.Tensor) -> tuple[TokenLogprob, ...]:
        if self.sampling.logprobs is None:
            return ()
        found = logprobs(logits, token, self.sampling.logprobs)
        top = tuple((self._decode([other]), other, value) for other, value in found.top)
        return (TokenLogprob(self._decode([token]), token, found.chosen, top),)
