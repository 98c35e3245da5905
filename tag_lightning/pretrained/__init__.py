"""Networks with weights: shipped, in folders, or in checkpoints."""

from tag_lightning.pretrained.store import Pretrained, describe, load_pretrained, require_same, save_pretrained

__all__ = ["Pretrained", "describe", "load_pretrained", "require_same", "save_pretrained"]
