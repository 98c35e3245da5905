"""Former name of ``tag_lightning.networks.trial_run``, until its callers are moved."""

from tag_lightning.networks.trial_run import require_accepts

__all__ = ["require_accepts"]
