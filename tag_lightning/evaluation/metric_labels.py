"""Names and units of metrics on the axes of figures, the same in all of them."""

from __future__ import annotations

from tag_lightning.chemistry import PROPERTIES

_LABELS = {
    "fid": "FID",
    "kid": "KID",
    "time_gap": "Time-Gap [training timesteps]",
    "accuracy_all": "share that satisfies all targets",
}


def metric_label(name: str) -> str:
    """The label of an axis, such as ``MAE of alpha [bohr^3]`` for ``mae_alpha``.

    Args:
        name: A metric as ``results.json`` calls it; an unknown one is written with spaces.
    """
    if name in _LABELS:
        return _LABELS[name]
    if name.startswith("mae_"):
        quantity = name.removeprefix("mae_")
        unit = f" [{PROPERTIES[quantity].unit}]" if quantity in PROPERTIES else ""
        return f"MAE of {quantity}{unit}"
    if name.startswith("within_"):
        return f"share with {name.removeprefix('within_')} in the range"
    return name.replace("_", " ")
