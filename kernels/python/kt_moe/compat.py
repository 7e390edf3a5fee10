"""`KTMoEWrapper`: kt-kernel's interface for inference, over our experts.

It takes kt-kernel 0.7.2's constructor (`gpu_experts_mask`) and the documented older one
(`num_gpu_experts`), reads its checkpoints, and works on tensors of a GPU or of the CPU. What these
kernels cannot do is refused by name; nothing is accepted and ignored that would change results.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import torch

from kt_moe.checkpoints import Wanted, open_layer
from kt_moe.compat_checks import (
    check_call,
    check_method,
    check_sizes,
    check_tensor,
    expert_order,
    gpu_mask,
)
from kt_moe.cpu import set_threads
from kt_moe.experts import Experts
from kt_moe.formats import Plain, to_experts
from kt_moe.formats.load import Target
from kt_moe.running import OnGpu, Running, start_on_cpu, start_on_gpu
from kt_moe.staging import LayerLinks, Staging

Tensor: TypeAlias = torch.Tensor

TARGETS: dict[str, Target] = {"BF16": "bf16", "AMXINT8": "int8", "AMXINT4": "int4"}
"""Methods that name the format to compute in; the others keep to the nearest one."""


class KTMoEWrapper:
    """The routed experts of one layer, those with True in `gpu_experts_mask` left out."""

    _staging: ClassVar[Staging] = Staging()
    _deferred: ClassVar[dict[int, Running]] = {}
    """Layer → its deferred experts, whose output the next layer adds to its own."""

    def __init__(
        self,
        layer_idx: int,
        num_experts: int,
        num_experts_per_tok: int,
        hidden_size: int,
        moe_intermediate_size: int,
        gpu_experts_mask: Tensor | int | None = None,
        cpuinfer_threads: int = 0,
        threadpool_count: int = 1,
        weight_path: str = "",
        chunked_prefill_size: int = 0,
        cpu_save: bool = False,
        max_deferred_experts_per_token: int | None = None,
        method: str = "AMXINT4",
        numa_nodes: Sequence[int] | None = None,
        mode: str = "inference",
        num_gpu_experts: int = 0,
        swiglu_limit: float = 0.0,
        swiglu_alpha: float = 0.0,
    ) -> None:
        """`cpuinfer_threads` 0 means one per core; threads are shared by all layers."""
        check_sizes(num_experts, num_experts_per_tok, hidden_size, moe_intermediate_size)
        check_method(method, mode, swiglu_limit, swiglu_alpha)
        if numa_nodes is not None and len(numa_nodes) != threadpool_count:
            raise ValueError(
                f"numa_nodes has {len(numa_nodes)} entries, threadpool_count is {threadpool_count}"
            )
        self.layer_idx = layer_idx
        self.num_experts = num_experts
        self.num_experts_per_tok = num_experts_per_tok
        self.hidden_size = hidden_size
        self.moe_intermediate_size = moe_intermediate_size
        self.gpu_experts_mask = gpu_mask(gpu_experts_mask, num_gpu_experts, num_experts)
        self.num_gpu_experts = int(self.gpu_experts_mask.sum())
        self.weight_path = weight_path
        self.chunked_prefill_size = chunked_prefill_size
        self.cpu_save = cpu_save
        self.max_deferred_experts_per_token = int(max_deferred_experts_per_token or 0)
        self.method = method
        self.repack_error = 0.0
        """Relative error that repacking added to the weights, on the first expert."""
        self._experts: Experts | None = None
        self._links: LayerLinks | None = None
        self._submitted: tuple[Running, Tensor] | None = None
        self._deferred.pop(layer_idx, None)
        set_threads(cpuinfer_threads)

    def load_weights(self, physical_to_logical_map_cpu: Tensor | None = None) -> None:
        """From `weight_path`, in the layout of `method`; slot p takes expert map[p] of the file."""
        order = expert_order(physical_to_logical_map_cpu, self.num_experts)
        packed = self._packed_file()
        if packed.is_file():
            self._need_identity(order, f"{packed} was packed in the order of the model")
            self._experts = self._fitting(Experts.load(packed), packed)
            self._experts.verify()
            return
        source = open_layer(self.method, self.weight_path, self._wanted())
        self._pack(source.triples(order), order)

    def load_weights_from_tensors(
        self,
        gate_proj: Tensor,
        up_proj: Tensor,
        down_proj: Tensor,
        physical_to_logical_map_cpu: Tensor | None = None,
    ) -> None:
        """gate, up [E, I, H] and down [E, H, I] in a float type, quantised here."""
        if self.method not in TARGETS:
            raise NotImplementedError(
                f"{self.method} weights come from a checkpoint: use load_weights, or one of "
                f"{', '.join(TARGETS)}"
            )
        order = expert_order(physical_to_logical_map_cpu, self.num_experts)
        e, h, i = self.num_experts, self.hidden_size, self.moe_intermediate_size
        stacks = (gate_proj, up_proj, down_proj)
        for name, stack, wanted in zip(
            ("gate_proj", "up_proj", "down_proj"),
            stacks,
            ((e, i, h), (e, i, h), (e, h, i)),
            strict=True,
        ):
            check_tensor(name, stack, wanted)
        self._pack((tuple(_plain(stack[n]) for stack in stacks) for n in order), order)

    def forward(
        self, hidden_states: Tensor, topk_ids: Tensor, topk_weights: Tensor, cuda_stream: Any = None
    ) -> Tensor:
        """[T, H] in the dtype and on the device of `hidden_states`."""
        self.submit_forward(hidden_states, topk_ids, topk_weights, cuda_stream)
        return self.sync_forward(hidden_states, cuda_stream)

    def submit_forward(
        self, hidden_states: Tensor, topk_ids: Tensor, topk_weights: Tensor, cuda_stream: Any = None
    ) -> None:
        """Starts the experts on the CPU; `sync_forward` must follow. For tensors of a GPU both only
        enqueue work, which a CUDA graph may capture, and what the CPU finds wrong is raised by a
        later call. The stream is the current one unless its handle is given."""
        experts = self._loaded()
        x = hidden_states.reshape(-1, hidden_states.shape[-1]).contiguous()
        check_call(x, topk_ids, topk_weights, self.hidden_size, self.num_experts_per_tok)
        ids, later = self._split(topk_ids.long(), topk_weights)
        call = x, ids.contiguous(), topk_weights.float().contiguous()
        running: Running = (
            self._start_in_stream(experts, cuda_stream, *call)
            if x.is_cuda
            else start_on_cpu(experts, self.gpu_experts_mask, *call)
        )
        self._submitted = running, later

    def sync_forward(self, hidden_states: Tensor, cuda_stream: Any = None) -> Tensor:
        """The result of the last `submit_forward`, with what the layer before had deferred."""
        self._loaded()
        if self._submitted is None:
            raise RuntimeError("sync_forward without submit_forward")
        running, later = self._submitted
        self._submitted = None
        out = running.result()
        before = self._deferred.pop(self.layer_idx - 1, None)
        if before is not None and before.shape == out.shape:
            out += before.result()
        if self.max_deferred_experts_per_token:
            self._deferred[self.layer_idx] = running.again(later.contiguous())
        return out

    def select_deferred_experts(
        self, expert_ids: Tensor, expert_scores: Tensor, protected_k: int
    ) -> tuple[Tensor, Tensor]:
        """Ids for now and for later, -1 elsewhere. The `protected_k` best of every token are now,
        and so is an expert everywhere once one token needs it now."""
        count = max(0, min(int(protected_k), expert_ids.shape[1]))
        best = expert_scores.topk(count, dim=-1, sorted=False).indices
        now = torch.isin(expert_ids, expert_ids.gather(-1, best))
        return expert_ids.masked_fill(~now, -1), expert_ids.masked_fill(now, -1)

    @staticmethod
    def set_capture_batch_sizes(capture_bs: list[int]) -> None:
        """Batch sizes whose buffers are kept, as graphs capture their addresses."""
        KTMoEWrapper._staging.set_capture(capture_bs)

    @staticmethod
    def get_capture_batch_sizes() -> list[int]:
        sizes: list[int] = KTMoEWrapper._staging.capture
        return sizes

    @staticmethod
    def clear_buffer_cache() -> None:
        KTMoEWrapper._staging.clear()

    def _pack(self, triples: Any, order: list[int]) -> None:
        if self.cpu_save:
            self._need_identity(order, "cpu_save writes the order of the model")
        loaded = to_experts(
            triples,
            self.num_experts,
            top_k=self.num_experts_per_tok,
            target=TARGETS.get(self.method),
            shape=(self.moe_intermediate_size, self.hidden_size),
        )
        self._experts = loaded.experts
        self.repack_error = loaded.error
        if self.cpu_save:
            self._packed_file().parent.mkdir(parents=True, exist_ok=True)
            loaded.experts.save(self._packed_file())

    def _packed_file(self) -> Path:
        folder = Path(self.weight_path)
        return folder / f"layer-{self.layer_idx:05d}.{self.method.lower()}.ktmoe"

    def _fitting(self, experts: Experts, where: object) -> Experts:
        """The experts, when their sizes are this layer's."""
        found = (experts.num_experts, experts.hidden, experts.intermediate, experts.top_k)
        e, h, i = self.num_experts, self.hidden_size, self.moe_intermediate_size
        wanted = (e, h, i, self.num_experts_per_tok)
        if found != wanted:
            raise ValueError(f"{where} has (E, H, I, K) = {found}, this layer is {wanted}")
        return experts

    def _need_identity(self, order: list[int], why: str) -> None:
        if order != list(range(self.num_experts)):
            raise ValueError(f"the expert map changes the order, and {why}")

    def _wanted(self) -> Wanted:
        return Wanted(
            self.layer_idx, self.num_experts, self.hidden_size, self.moe_intermediate_size
        )

    def _loaded(self) -> Experts:
        if self._experts is None:
            raise RuntimeError(f"layer {self.layer_idx} has no weights: call load_weights first")
        return self._experts

    def _split(self, ids: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        later = self.max_deferred_experts_per_token
        if not later:
            return ids, ids
        return self.select_deferred_experts(ids, scores, self.num_experts_per_tok - later)

    def _start_in_stream(
        self, experts: Experts, stream: Any, x: Tensor, ids: Tensor, weights: Tensor
    ) -> OnGpu:
        if self._links is None or self._links.experts is not experts:
            self._links = LayerLinks(experts, self.gpu_experts_mask)
        links, layer, k = self._links, self.layer_idx, self.num_experts_per_tok
        link = links.to(self._staging.of(x, k, layer, later=False))
        later = link
        if self.max_deferred_experts_per_token:
            later = links.to(self._staging.of(x, k, layer, later=True))
        if stream is None:
            stream = torch.cuda.current_stream(x.device).cuda_stream
        return start_on_gpu(link, later, int(stream), x, ids, weights)


def _plain(matrix: Tensor) -> Plain:
    """A torch matrix as numpy: bf16 as its bits."""
    matrix = matrix.detach().cpu().contiguous()
    if matrix.dtype == torch.bfloat16:
        return Plain(matrix.view(torch.uint16).numpy())
    return Plain(matrix.numpy())
