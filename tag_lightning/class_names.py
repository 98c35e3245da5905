"""Our public classes, which configurations and the command line name without their package."""

from __future__ import annotations

import inspect

import tag_lightning.callbacks
import tag_lightning.datamodules
import tag_lightning.diffusion
import tag_lightning.evaluation
import tag_lightning.guidance
import tag_lightning.measurements
import tag_lightning.metrics
import tag_lightning.modules
import tag_lightning.networks

# jsonargparse finds a class by its short name once its package is imported.
PACKAGES = (
    tag_lightning.callbacks,
    tag_lightning.datamodules,
    tag_lightning.diffusion,
    tag_lightning.evaluation,
    tag_lightning.guidance,
    tag_lightning.measurements,
    tag_lightning.metrics,
    tag_lightning.modules,
    tag_lightning.networks,
)


def public_classes() -> dict[str, type]:
    """Return the classes that our packages export, errors apart, by their short names."""
    exported = {name: getattr(package, name) for package in PACKAGES for name in getattr(package, "__all__", ())}
    return {
        name: value for name, value in exported.items() if inspect.isclass(value) and not issubclass(value, Exception)
    }
