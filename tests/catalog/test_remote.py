"""A model described over HTTP, from a server on this machine that counts what it sends."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tiny_models import write_checkpoint, write_headers

from kt_cli import catalog
from kt_cli.catalog import remote_files
from kt_cli.errors import AuthError, NotFoundError, TransferError

HIDDEN = 512
CONFIG = {
    "model_type": "mixtral",
    "vocab_size": 64,
    "hidden_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": HIDDEN,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 64,
}


def experts(layer):
    prefix = f"model.layers.{layer}.block_sparse_moe.experts"
    names = [f"{prefix}.{e}.{part}.weight" for e in range(8) for part in ("w1", "w2", "w3")]
    return dict.fromkeys(names, ("BF16", (HIDDEN, HIDDEN)))


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.tokens.add(self.headers.get("Authorization"))
        path = server.root / self.path.removeprefix("/org/model/resolve/main/")
        if server.status:
            return self.answer(server.status, b"")
        if not path.is_file():
            return self.answer(404, b"")
        content = path.read_bytes()
        start, end = map(int, re.findall(r"\d+", self.headers["Range"]))
        if server.ranges:
            extent = f"bytes {start}-{min(end, len(content) - 1)}/{len(content)}"
            return self.answer(206, content[start : end + 1], extent)
        return self.answer(200, content)

    def answer(self, status, content, extent=""):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if extent:
            self.send_header("Content-Range", extent)
        self.end_headers()
        self.wfile.write(content)
        self.server.sent += len(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.root, server.status, server.ranges = tmp_path, 0, True
    server.sent, server.tokens = 0, set()
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def sharded(folder):
    (folder / "config.json").write_text(json.dumps(CONFIG))
    weight_map = {}
    for layer in range(2):
        name = f"model-0000{layer + 1}-of-00002.safetensors"
        write_headers(folder / name, experts(layer))
        weight_map |= dict.fromkeys(experts(layer), name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_a_sharded_model_is_described_without_its_tensors(hub, tmp_path):
    sharded(tmp_path)
    model = remote_files.remote("org/model", endpoint=hub.url, token="secret")
    local = catalog.read(tmp_path)
    assert (model.bytes, model.experts, model.exact) == (local.bytes, local.experts, True)
    assert (model.name, model.repo) == ("model", "org/model")
    assert hub.sent < local.total_bytes / 10
    assert hub.tokens == {"Bearer secret"}


def test_a_single_file_whose_header_takes_two_requests(hub, tmp_path):
    small = {**CONFIG, "hidden_size": 8, "intermediate_size": 8, "num_local_experts": 2000}
    prefix = "model.layers.0.block_sparse_moe.experts"
    names = [f"{prefix}.{e}.{part}.weight" for e in range(2000) for part in ("w1", "w2", "w3")]
    tensors = dict.fromkeys(names, ("BF16", (8, 8)))
    write_checkpoint(tmp_path, {**small, "num_hidden_layers": 1}, tensors)
    model = remote_files.remote("org/model", endpoint=hub.url)
    assert model.bytes == {"routed_experts": 6000 * 128}


def test_a_repository_that_is_not_there(hub):
    with pytest.raises(NotFoundError, match=r"no org/model/config\.json"):
        remote_files.remote("org/model", endpoint=hub.url)


@pytest.mark.parametrize(
    ("status", "error"), [(401, AuthError), (403, AuthError), (500, TransferError)]
)
def test_a_hub_that_refuses(hub, status, error):
    hub.status = status
    with pytest.raises(error) as caught:
        remote_files.remote("org/model", endpoint=hub.url)
    assert str(status) in caught.value.why


def test_a_server_that_ignores_ranges_is_named(hub, tmp_path):
    sharded(tmp_path)
    hub.ranges = False
    with pytest.raises(TransferError, match="cannot read the header"):
        remote_files.remote("org/model", endpoint=hub.url)


def test_no_network(hub):
    hub.shutdown()
    hub.server_close()
    with pytest.raises(TransferError, match="cannot reach org/model"):
        remote_files.remote("org/model", endpoint=hub.url)


def test_a_remote_shard_shorter_than_its_header_says(hub, tmp_path):
    sharded(tmp_path)
    shard = tmp_path / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(TransferError, match="model-00002-of-00002") as caught:
        remote_files.remote("org/model", endpoint=hub.url)
    assert "cut short" in caught.value.why


def test_a_server_that_never_ends_is_left(hub, tmp_path):
    hub.ranges = False
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(1 << 26)
    with pytest.raises(TransferError, match=r"config\.json") as caught:
        remote_files.remote("org/model", endpoint=hub.url)
    assert "more than" in caught.value.why


def test_a_quantisation_that_stands_in_a_file_of_its_own(hub, tmp_path):
    sizes = {"w1": (128, 128), "w3": (128, 128), "w2": (128, 128)}
    packed = {
        f"model.layers.0.block_sparse_moe.experts.{e}.{part}.{suffix}": shape
        for e in range(8)
        for part, (n, k) in sizes.items()
        for suffix, shape in (("qweight", ("I32", (k // 8, n))), ("scales", ("BF16", (1, n))))
    }
    config = {**CONFIG, "hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 1}
    write_headers(tmp_path / "model.safetensors", packed)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(TransferError, match="org/model"):
        remote_files.remote("org/model", endpoint=hub.url)
    (tmp_path / "quantize_config.json").write_text(json.dumps({"bits": 4, "group_size": 128}))
    model = remote_files.remote("org/model", endpoint=hub.url)
    assert (model.quantization.method, model.quantization.bits) == ("gptq", 4)
    assert model.parameters["routed_experts"] == 8 * 3 * 128 * 128
