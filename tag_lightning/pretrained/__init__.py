"""Networks with weights: shipped, in folders, or in checkpoints."""

from tag_lightning.pretrained.model_card import model_card
from tag_lightning.pretrained.public import push_to_hub
from tag_lightning.pretrained.store import (
    Pretrained,
    constructor_defaults,
    describe,
    load_pretrained,
    require_same,
    save_pretrained,
)

__all__ = [
    "Pretrained",
    "constructor_defaults",
    "describe",
    "load_pretrained",
    "model_card",
    "push_to_hub",
    "require_same",
    "save_pretrained",
]
