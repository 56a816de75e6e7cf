"""A model that is loaded on a GPU lies there in the precision, and answers as on the CPU."""

import pytest
import torch

import fewer
from fewer import LTP
from tests.gpu.device import HAS_GPU
from tests.tiny import ragged, tiny

pytestmark = pytest.mark.skipif(not HAS_GPU, reason="needs a CUDA device")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_lie_on_the_gpu_in_the_precision(tmp_path, precision):
    fewer.save(fewer.attach(tiny(), LTP(final_threshold=0.1)), tmp_path)
    model = fewer.load(tmp_path, device="cuda", precision=precision)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    places = {(weight.device.type, weight.dtype) for weight in model.parameters()}
    assert places == {("cuda", dtype)}
    batch = ragged(model)
    with torch.inference_mode():
        logits = model(**{name: value.cuda() for name, value in batch.items()}).logits.float()
        expected = fewer.load(tmp_path)(**batch).logits
    tolerance = 1e-3 if precision == "fp32" else 0.1
    torch.testing.assert_close(logits.cpu(), expected, rtol=tolerance, atol=tolerance)
