"""Our decoders against the `gguf` package's, over random block bytes."""

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from kt_cli.errors import KtError
from kt_cli.weights.gguf_quants import BLOCKS, TYPE_NAMES, dequantize

SIMPLE = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4"]
QUANTS = [*SIMPLE, "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]


@pytest.mark.parametrize("kind", QUANTS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_decoding_equals_the_reference(kind):
    rng = np.random.default_rng(7)
    blocks = rng.integers(0, 256, (64, BLOCKS[kind][1]), dtype=np.uint8)
    theirs = gguf.quants.dequantize(blocks, GGMLQuantizationType[kind])
    ours = dequantize(blocks.reshape(-1), kind)
    np.testing.assert_allclose(ours, theirs.reshape(-1).astype(np.float32), rtol=2e-6, atol=1e-30)


def test_block_sizes_equal_the_reference():
    theirs = {t.value: (t.name, *GGML_QUANT_SIZES[t]) for t in GGMLQuantizationType}
    ours = {code: (name, *BLOCKS[name]) for code, name in TYPE_NAMES.items()}
    assert ours == theirs


@pytest.mark.parametrize("kind", [name for name in BLOCKS if name.startswith(("IQ", "TQ"))])
def test_types_that_cannot_be_read_are_named(kind):
    with pytest.raises(KtError, match=f"GGUF type {kind} cannot be read"):
        dequantize(np.zeros(BLOCKS[kind][1], np.uint8), kind)
