"""Networks with their weights: as shipped, as folders, or inside checkpoints."""

from tag_lightning.pretrained.store import Pretrained, describe, load_pretrained, require_same, save_pretrained

__all__ = ["Pretrained", "describe", "load_pretrained", "require_same", "save_pretrained"]
