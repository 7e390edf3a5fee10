"""The embedded engine: a checkpoint directory in, an `api.Engine` out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from kt_cli.core.engine_report import EngineReport, report
from kt_cli.embedded.api import Sampling, Stats
from kt_cli.embedded.handle import RequestHandle
from kt_cli.embedded.inject import Rule, read_rules
from kt_cli.embedded.loading import LoadedModel, LoadOptions, load_model, read_config
from kt_cli.embedded.packed import NoPacks, Packing
from kt_cli.embedded.presets import rules_for
from kt_cli.embedded.runners import GeneralRunner, PooledRunner, Runner
from kt_cli.embedded.stream import Stream
from kt_cli.embedded.tokenizer import Tokenizer, end_tokens
from kt_cli.embedded.uses import uses
from kt_cli.embedded.worker import Worker
from kt_cli.errors import DoesNotFitError, UsageError
from kt_cli.weights.packs import Shelf


class EmbeddedEngine:
    """See `api.Engine`."""

    def __init__(
        self,
        worker: Worker,
        tokenizer: Tokenizer,
        *,
        model_name: str,
        context: int,
        kv_tokens: int,
        vocabulary: int,
        eos: Collection[int],
        notes: Sequence[str] = (),
        report: EngineReport | None = None,
        packs: Packing | None = None,
    ) -> None:
        self.model_name = model_name
        self.context = context
        self.notes = tuple(notes)
        self.report = report or EngineReport()
        self._worker = worker
        self._packs = packs or NoPacks()
        self._tokenizer = tokenizer
        self._most = min(context, kv_tokens)
        self._vocabulary = vocabulary
        self._eos = eos

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)

    def render(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        return self._tokenizer.render(messages)

    def submit(self, prompt: Sequence[int], sampling: Sampling) -> RequestHandle:
        check(prompt, sampling, self._most, self._vocabulary)
        handle = RequestHandle(len(prompt), self._worker.wake)
        decode = self._tokenizer.decode
        stream = Stream(tuple(prompt), sampling, handle, decode, self._eos, self._vocabulary)
        self._worker.submit(stream)
        return handle

    def stats(self) -> Stats:
        return self._worker.stats()

    def close(self) -> None:
        self._worker.close()
        self._tokenizer.close()
        self._packs.close()


def check(prompt: Sequence[int], sampling: Sampling, most: int, vocabulary: int) -> None:
    """Raises ValueError for what cannot be generated."""
    if not prompt:
        raise ValueError("the prompt is empty")
    if sampling.max_tokens < 1:
        raise ValueError("max_tokens is less than 1")
    if len(prompt) + sampling.max_tokens > most:
        needed = f"{len(prompt)} tokens of prompt and {sampling.max_tokens} of answer"
        raise ValueError(f"{needed} do not fit the context of {most}")
    if not all(0 <= token < vocabulary for token in prompt):
        raise ValueError(f"the prompt has tokens outside the vocabulary of {vocabulary}")
    if not all(0 <= token < vocabulary for token, _ in sampling.logit_bias):
        raise ValueError(f"logit_bias has tokens outside the vocabulary of {vocabulary}")
    if not 0 < sampling.top_p <= 1 or not 0 <= sampling.min_p <= 1:
        raise ValueError("top_p must be above 0 and at most 1, min_p from 0 to 1")
    if sampling.temperature < 0 or sampling.repetition_penalty <= 0:
        raise ValueError("temperature must not be negative, repetition_penalty must be above 0")


def load(
    path: Path,
    *,
    model_name: str,
    context: int,
    max_batch: int,
    threads: int,
    device: str = "cpu",
    rules: Path | None = None,
    kv_tokens: int | None = None,
    dtype: str | None = None,
    experts_backend: str | None = None,
    experts_format: str | None = None,
    trust_remote_code: bool = False,
    packs: Path | None = None,
    packs_limit: int | None = None,
    planned: Mapping[str, str] | None = None,
    progress: Callable[[str, float], None],
) -> EmbeddedEngine:
    """Loads a model and starts its thread. `kv_tokens` None: a full context for each of the batch.
    `planned`: what the engine's report is compared with.

    Raises a `KtError` that says what is wrong with the checkpoint, the rules or the machine.
    """
    torch.set_num_threads(threads)
    options = LoadOptions(
        device,
        dtype,
        experts_backend,
        experts_format,
        threads,
        trust_remote_code,
        Shelf(packs, packs_limit) if packs else None,
    )
    config = read_config(path, trust_remote_code)
    _check_context(config, context)
    loaded = load_model(path, _rules(rules, config), options, progress)
    if device.startswith("cuda"):
        # cuDNN compiles its attention anew for every length, which takes longer than a token.
        torch.backends.cuda.enable_cudnn_sdp(False)
        torch.cuda.empty_cache()  # what loading took beside the weights
    tokenizer = Tokenizer(path, trust_remote_code)
    total = kv_tokens or context * max_batch
    worker = Worker(_runner(loaded, total), max_batch=max_batch, kv_tokens=total, threads=threads)
    return EmbeddedEngine(
        worker,
        tokenizer,
        model_name=model_name,
        context=context,
        kv_tokens=total,
        vocabulary=loaded.config.get_text_config().vocab_size,
        eos=end_tokens(path, tokenizer),
        notes=loaded.notes,
        report=report({**uses(loaded), "kv_tokens": str(total)}, planned or {}),
        packs=loaded.packs,
    )


def _check_context(config: Any, context: int) -> None:
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    if isinstance(longest, int) and context > longest:
        fix = f"ask for a context of at most {longest}"
        raise UsageError(f"a context of {context} tokens", f"the model knows {longest}", fix)


def _rules(path: Path | None, config: Any) -> tuple[Rule, ...]:
    """Rules of the user come first; the general ones take what those leave alone."""
    if path is None:
        return read_rules(rules_for(config.model_type))
    return (*read_rules(path), *read_rules(rules_for(None)))


def _runner(loaded: LoadedModel, kv_tokens: int) -> Runner:
    if not PooledRunner.fits(loaded.model):
        return GeneralRunner(loaded.model)
    try:
        return PooledRunner(loaded.model, kv_tokens, loaded.dtype.dtype)
    except (RuntimeError, MemoryError) as error:
        what = f"no room for a KV cache of {kv_tokens} tokens"
        raise DoesNotFitError(what, str(error).splitlines()[0], "ask for fewer tokens") from error
