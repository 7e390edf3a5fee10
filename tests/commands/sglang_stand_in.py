"""An environment of its own below KT_HOME/engines whose SGLang is an HTTP server of a few lines."""

from __future__ import annotations

import venv
from pathlib import Path

from tiny_models import BASE, write_checkpoint

SERVER_ARGS = """
FLAGS = ["--log-level", "--sampling-backend"]
class ServerArgs:
    pass
"""
LAUNCH = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
    def log_message(self, *_):
        pass
if __name__ == "__main__":
    print("started with", *sys.argv[1:], flush=True)
    print("path", os.environ.get("PYTHONPATH"), flush=True)
    port = int(sys.argv[sys.argv.index("--port") + 1])
    http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def install(home: Path) -> Path:
    """Its interpreter."""
    folder = home / "engines" / "sglang"
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python3*/site-packages")
    (site / "sglang_kt-0.7.2.dist-info").mkdir()
    (site / "sglang" / "srt").mkdir(parents=True)
    (site / "sglang" / "__init__.py").touch()
    (site / "sglang" / "launch_server.py").write_text(LAUNCH)
    (site / "sglang" / "srt" / "server_args.py").write_text(SERVER_ARGS)
    return folder / "bin" / "python"


def tiny_mixtral(folder: Path) -> Path:
    """Headers alone: enough for a plan."""
    config = {
        **BASE, "architectures": ["MixtralForCausalLM"], "model_type": "mixtral",
        "num_local_experts": 8, "num_experts_per_tok": 2, "num_hidden_layers": 1,
        "torch_dtype": "bfloat16",
    }  # fmt: skip
    layer, width = "model.layers.0", config["intermediate_size"]
    shapes = {
        "model.embed_tokens": (96, 64),
        "model.norm": (64,),
        "lm_head": (96, 64),
        f"{layer}.input_layernorm": (64,),
        f"{layer}.post_attention_layernorm": (64,),
        f"{layer}.self_attn.q_proj": (64, 64),
        f"{layer}.self_attn.k_proj": (32, 64),
        f"{layer}.self_attn.v_proj": (32, 64),
        f"{layer}.self_attn.o_proj": (64, 64),
        f"{layer}.block_sparse_moe.gate": (8, 64),
    }
    for expert in range(8):
        place = f"{layer}.block_sparse_moe.experts.{expert}"
        shapes |= {
            f"{place}.w1": (width, 64),
            f"{place}.w2": (64, width),
            f"{place}.w3": (width, 64),
        }
    tensors = {f"{name}.weight": ("BF16", shape) for name, shape in shapes.items()}
    return write_checkpoint(folder, config, tensors)
