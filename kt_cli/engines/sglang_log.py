"""What SGLang's log says: how far loading is, and why it ended. Lines of sglang-kt 0.7.2."""

from __future__ import annotations

from kt_cli.core.launch import Diagnosis, Stage

STAGES = (
    Stage(r"Init torch distributed begin", "starting workers", 0.05),
    Stage(r"Load weight begin", "loading weights", 0.1),
    Stage(r"Generated KT GPU experts masks using", "placing experts", 0.15),
    Stage(r"Load weight end", "weights loaded", 0.75),
    Stage(r"KV Cache is allocated", "allocating the KV cache", 0.8),
    Stage(r"Capture cuda graph begin|Capture cuda graph bs", "capturing CUDA graphs", 0.85),
    Stage(r"Uvicorn running on", "warming up", 0.95),
    Stage(r"The server is fired up and ready to roll!", "ready", 1.0),
)

_SHORTER = "use a shorter --ctx-size, fewer --gpu-experts or fewer --max-running-requests"
_INSTALL = "`kt engine verify sglang` names what is broken; `kt doctor` looks further"

DIAGNOSES = (
    Diagnosis(
        r"Either kt_num_gpu_experts or kt_gpu_experts_ratio is required but not set",
        "SGLang left the CPU experts out and put every expert on the GPU",
        "it does so without --kt-num-gpu-experts",
        "give `--gpu-experts`, 0 for none",
    ),
    Diagnosis(
        r"DSV4 side-effect import failed",
        "SGLang could not load its CPU experts and went on without them",
        "{line}",
        _INSTALL,
    ),
    Diagnosis(
        r"kt_kernel is not installed",
        "kt-kernel is not installed beside SGLang",
        "SGLang needs it for experts on the CPU",
        _INSTALL,
    ),
    Diagnosis(
        r"backend not available\. Required ISA",
        "this processor cannot run the expert kernels of that method",
        "{line}",
        "choose another `--kt-method`; `kt plan` names those that run here",
    ),
    Diagnosis(
        r"Method '[^']*' not supported for inference mode",
        "this kt-kernel does not know the method",
        "{line}",
        "choose another `--kt-method`, or install a newer ktransformers",
    ),
    Diagnosis(
        r"Path not found: |No Safetensor files found in|No experts found for layer",
        "the experts' weights are not where SGLang looks for them",
        "{line}",
        "check `--weights-path`; converted weights belong to one model and one method",
    ),
    Diagnosis(
        r"must be multiple of M_STEP and K_STEP",
        "the size of a chunk does not suit the CPU kernels",
        "they work on 32 tokens at a time",
        "use a `--chunked-prefill-size` that is a multiple of 32",
    ),
    Diagnosis(
        r"Not enough memory\. Please try to increase --mem-fraction-static",
        "nothing is left of the GPU's memory for the KV cache",
        "weights and GPU experts take all that --mem-fraction-static allows",
        "use fewer `--gpu-experts`, or leave `--mem-fraction-static` to the plan",
    ),
    Diagnosis(
        r"Capture cuda graph failed",
        "the memory of the GPU ran out while CUDA graphs were captured",
        "{line}",
        "use a lower `--mem-fraction-static` or fewer `--max-running-requests`",
    ),
    Diagnosis(
        r"OutOfMemoryError|CUDA out of memory", "the memory of the GPU ran out", "{line}", _SHORTER
    ),
    Diagnosis(
        r"\[Errno 98\]|address already in use",
        "another program took the port while SGLang was loading",
        "{line}",
        "give another `--port`",
    ),
    Diagnosis(
        r"[Uu]nrecognized arguments|launch_server\.py: error: ",
        "SGLang does not know one of its flags",
        "{line}",
        "check the flags you passed through, and the version of SGLang by `kt version`",
    ),
    Diagnosis(
        r"Repo id must be|HFValidationError|is not a local folder and is not a valid model",
        "SGLang does not find the model",
        "{line}",
        "`kt model pull` fetches it",
    ),
    Diagnosis(
        r"trust_remote_code=True|allow custom code",
        "the model brings Python code of its own",
        "it runs only with your consent",
        "look at the code, then add `--trust-remote-code`",
    ),
    Diagnosis(
        r"Found no NVIDIA driver|Expected a cuda device|No CUDA GPUs are available",
        "SGLang finds no NVIDIA GPU",
        "{line}",
        "`kt doctor` checks driver and GPUs; `--engine embedded` needs none",
    ),
    Diagnosis(
        r"Could not find nvcc|[Nn]inja is required|CUDA_HOME environment variable is not set",
        "SGLang must compile GPU code and finds no compiler",
        "{line}",
        "install the CUDA toolkit and ninja, or use `--attention-backend triton`",
    ),
    Diagnosis(
        r"(ModuleNotFoundError|ImportError): |cannot open shared object file",
        "a package of SGLang is missing or broken",
        "{line}",
        _INSTALL,
    ),
    Diagnosis(
        r"No space left on device", "the disk is full", "{line}", "free some space and try again"
    ),
    Diagnosis(
        r"Scheduler hit an exception|Received sigquit from a child process",
        "a process of SGLang failed, so it ended itself (exit code 137)",
        "it kills itself when a worker fails; memory need not be the reason",
        "`kt logs {name}` shows the worker's error",
    ),
)
"""The telling ones first: a failure often says several of them."""
