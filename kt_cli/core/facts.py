"""What an engine needs and can do, as data; `kt_cli.engines.facts` reads `presets/engines`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kt_cli.core.machine import GpuVendor


@dataclass(frozen=True, slots=True)
class EmbeddedFacts:
    """The embedded engine. Sizes in bytes; each number's source stands in the preset."""

    base_bytes: int
    """Memory of Python, torch, transformers and the server before any weight."""
    chunk: int
    """Tokens of a prompt computed at once."""
    requests: int
    context: int
    """Longest context unless asked for."""
    margin_bytes: int
    latent_kv: str
    """First transformers whose cache of MLA holds the latent; before, it held full heads."""
    methods: Mapping[str, float]
    """Expert format → bytes per weight, the scales included; the first is the default."""
    decode_efficiency: tuple[float, float]
    """Share of memory bandwidth reached, low and high."""
    prefill_efficiency: tuple[float, float]
    """Share of peak compute reached, low and high."""
    reads: tuple[str, ...] = ("bf16", "fp16", "fp32")
    """Quantisation of the checkpoints it loads."""
    torch_only: Mapping[str, str] = field(default_factory=dict)
    """Start of an architecture's name → why its experts run on torch's operator."""
    activations: tuple[str, ...] = ("silu", "gelu")
    """Of experts, in our kernels."""
    absent: Mapping[str, str] = field(default_factory=dict)
    """Start of an architecture's name → why the engine cannot load it at all."""
    cuda_build_bytes: int = 0
    """More of it where torch is built with CUDA, used or not."""
    libraries_bytes: int = 0
    """Resident pages of program files, which the kernel may drop."""
    cuda_libraries_bytes: int = 0
    token_bytes: int = 0
    """Of the tokenizer, a word of the vocabulary."""
    thread_bytes: int = 0
    """What attention and the libraries keep for each CPU thread."""
    pooled: tuple[str, ...] = ()
    """Starts of architectures whose cache is set aside whole; others grow with each request."""
    gpu_context_bytes: int = 0
    gpu_host_bytes: int = 0
    """Memory that CUDA takes on the host."""
    typical: int = 0
    """Tokens of context that speed is predicted at."""
    notes: Mapping[str, str] = field(default_factory=dict)
    gathering_s: float = 0.0
    """Seconds to put 10⁹ weights of experts together, as one thread does."""
    packing_s: Mapping[str, float] = field(default_factory=dict)
    """Expert format → seconds of one core to pack 10⁹ weights."""
    packed: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Expert format → (layers, bytes) that an earlier start of this model has packed."""

    def pools(self, architecture: str) -> bool:
        return architecture.startswith(tuple(self.pooled))


@dataclass(frozen=True, slots=True)
class ExpertFormat:
    """A format of the experts on the CPU, as some engine takes it."""

    name: str
    reads: tuple[str, ...]
    """Quantisation of a checkpoint that it takes as it is; empty when it must be converted."""
    isa: tuple[tuple[str, ...], ...]
    """Each entry is a set of CPU features that suffices."""
    weight: float
    """Bytes per weight, group scales included."""
    row_scale: float = 0.0
    """Bytes per output row."""
    converts: tuple[str, ...] = ()
    """Quantisation of a checkpoint that can be converted to it."""


@dataclass(frozen=True, slots=True)
class Method(ExpertFormat):
    """A format and kernel of kt-kernel."""

    bits: int = 0
    """Bits a weight that it reads, 0 for any."""
    scale: float = 0.0
    """Bytes of a group's scale, where the checkpoint decides on the groups; `weight` is for its
    usual ones."""
    group_step: int = 0
    """What a group must be a multiple of, 0 for no groups."""
    symmetric: bool = False
    """Neither zero points nor an order by activation."""
    layerwise: bool = False
    """A whole layer can be computed on the GPU in a long prefill."""
    slots: int = 1
    """Layers' worth of GPU memory that layer-wise prefill takes."""
    rows: int = 1
    """What intermediate size per pool must be a multiple of."""
    arithmetic: str = "bf16"
    decode: tuple[float, float] = (0.3, 0.6)
    """Share of memory bandwidth reached in decode."""
    automatic: bool = True
    """May be chosen without being asked for."""
    caveat: str = ""
    lora: tuple[tuple[str, ...], ...] = ()
    """Sets of CPU features that suffice for an adapter on the experts; empty where none do."""
    prepare: str = "convert the experts by kt-kernel's scripts/convert_cpu_weights.py"
    """How to get its weights where they are not the checkpoint's own."""
    source: str = ""


@dataclass(frozen=True, slots=True)
class SglangFacts:
    """SGLang with CPU experts. Sizes in bytes; each number's source stands in the preset."""

    methods: tuple[Method, ...]
    unsupported: Mapping[str, str]
    """Start of an architecture's name → why its experts cannot run on the CPU."""
    formats: Mapping[str, tuple[int, int]]
    """Quantisation of a checkpoint → lowest compute capability of a GPU that computes it."""
    attention: Mapping[str, str]
    """Start of an architecture's name → attention kernels that its start-up check takes."""
    hybrid_window: tuple[str, ...]
    """Starts of architectures whose windowed layers have a pool of their own."""
    window_share: float
    """Tokens in that pool for each token of the other layers."""
    state_slots: int
    """States of linear attention that a request in flight needs, with a prefix cache."""
    context: int
    requests: int
    chunks: tuple[int, ...]
    """Chunked prefill sizes to choose from, largest first."""
    prefill_threshold: int
    host_base: int
    host_rank: int
    cuda_context: int
    graphs: int
    graph_request: int
    margin: int
    margin_share: float
    host_margin: int
    typical: int
    gpu_decode: tuple[float, float]
    gpu_prefill: tuple[float, float]
    cpu_prefill: tuple[float, float]
    layer_overhead_us: tuple[float, float]
    """Microseconds a layer of decode costs beside bytes: launches and the CPU handshake."""
    tp_layer_us: tuple[float, float]
    """Microseconds that the sums over GPUs add to a layer, each time their number doubles."""
    pcie: tuple[float, float]
    """Share of PCIe bandwidth that layer-wise prefill reaches."""
    nccl: int = 0
    """NCCL's buffers, which several GPUs need at once and one GPU with layer-wise prefill."""
    nccl_host: int = 0
    flashinfer: int = 0
    """Its workspace on each GPU."""
    start_s: tuple[float, float] = (0.0, 0.0)
    """Seconds to ready beside reading the weights."""
    absent: Mapping[str, str] = field(default_factory=dict)
    """Start of an architecture's name → why it is not served, on the GPU alone neither."""
    pace: float | None = None
    """Decode measured on this machine over the middle of what is predicted without it."""

    def method(self, name: str) -> Method | None:
        return next((m for m in self.methods if m.name == name), None)


@dataclass(frozen=True, slots=True)
class SftFormat(ExpertFormat):
    """A format of the frozen experts in training."""

    prepare: str = ""
    architectures: tuple[str, ...] = ()
    """Starts of names; empty for all that training knows."""


@dataclass(frozen=True, slots=True)
class SftFacts:
    """LoRA training with experts on the CPU. Sizes in bytes; sources stand in the preset."""

    architectures: tuple[str, ...]
    """Starts of the names of models that it knows."""
    formats: tuple[SftFormat, ...]
    cutoff: int
    """Tokens of the longest sample, one sample a GPU."""
    rank: int
    adapter: int
    """Bytes a trained parameter takes on the GPU: weight, gradient, optimizer."""
    expert_adapter: int
    """The same for the experts' adapters, on the host."""
    host_base: int
    host_rank: int
    host_margin: int
    cuda_context: int
    margin: int
    margin_share: float


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """A GPU by its published figures."""

    name: str
    sizes_gib: tuple[float, ...]
    """Memory it is sold with, the usual size first."""
    gbs: float
    tflops: float
    """Dense bf16 with fp32 accumulation, as published."""
    capability: tuple[int, int] | None = None
    vendor: GpuVendor = "nvidia"
    aliases: tuple[str, ...] = ()
    source: str = ""


@dataclass(frozen=True, slots=True)
class CpuFacts:
    """A processor by its published figures."""

    name: str
    maker: str
    cores: int
    """Physical cores; performance cores alone where it has two kinds."""
    ghz: float
    """Base clock."""
    isa: tuple[str, ...]
    fma: int
    """Multiply-adds in fp32 that a core starts each cycle."""
    channels: int
    """Of memory, 64 bits each."""
    mts: int
    """Fastest memory it is specified for, million transfers a second."""
    aliases: tuple[str, ...] = ()
    source: str = ""

    @property
    def full_name(self) -> str:
        return f"{self.maker} {self.name}"

    @property
    def gbs(self) -> float:
        """Memory bandwidth by the specification."""
        return self.channels * 8 * self.mts / 1000
