"""Models and texts that are calibrated."""

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.unit.conftest import WORDS

TEXTS = [
    " ".join(WORDS[(number * step) % len(WORDS)] for step in range(1, 2 + number % 9))
    for number in range(80)
]


def classifier(model_folder, kind=AutoModelForSequenceClassification, **settings):
    """Draw all weights anew, so that answers do not depend on what ran before."""
    model = kind.from_pretrained(model_folder, **settings).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
    return model, AutoTokenizer.from_pretrained(model_folder)
