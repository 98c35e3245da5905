"""Fingerprints tell every change of content, and nothing else, apart."""

from __future__ import annotations

import functools
import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_runs import UNET, seeded
from torch import nn

from tag_lightning.diffusion import DDIM, Recurrence
from tag_lightning.evaluation import fingerprint
from tag_lightning.evaluation.fingerprint import Fingerprints, IndescribableError
from tag_lightning.guidance import DPS, FixedLengthSteps, PolyakStrength, TemporalAlignment
from tag_lightning.networks import SimpleCNN

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=8,
)


def of(*values: Any) -> str:
    return Fingerprints().of(*values)


def unet(seed: int = 0, **changed: Any) -> nn.Module:
    return seeded(lambda: UNet2DModel(**{**UNET, **changed}), seed)


@given(PLAIN, PLAIN)
@settings(deadline=None, max_examples=40)
def test_equal_plain_values_and_no_others_have_equal_fingerprints(a: Any, b: Any) -> None:
    assert (of(a) == of(b)) == (repr(a) == repr(b))


def test_every_tensor_of_a_network_counts_to_the_last_bit() -> None:
    network = seeded(lambda: SimpleCNN(8, num_timesteps=20, widths=(8, 8)), 0)
    before = of(network)
    assert of(seeded(lambda: SimpleCNN(8, num_timesteps=20, widths=(8, 8)), 0)) == before
    seen = {before}
    for name, values in network.state_dict().items():
        flat = values.view(-1)
        old = flat[-1].clone()
        flat[-1] = old + 1 if not values.is_floating_point() else torch.nextafter(old, old - 1).nan_to_num(1.0)
        assert of(network) not in seen, name
        seen.add(of(network))
        flat[-1] = old
    assert of(network) == before


def test_a_buffer_that_is_not_saved_counts_and_the_mode_does_not() -> None:
    network = SimpleCNN(8, num_timesteps=20, widths=(8, 8))
    network.register_buffer("scale", torch.ones(1), persistent=False)
    before = of(network)
    assert of(network.train()) == of(network.eval()) == before
    network.scale.fill_(2)
    assert of(network) != before


def test_settings_of_a_network_without_weights_count() -> None:
    assert of(unet(norm_eps=1e-5)) != of(unet(norm_eps=1e-6))
    assert of(nn.Dropout(0.1)) != of(nn.Dropout(0.2))
    hooked = nn.Linear(2, 2)
    before = of(hooked)
    hooked.register_forward_hook(print)
    assert of(hooked) != before


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (DPS(scale=1.0), DPS(scale=1.5)),
        (DPS(), DPS(stop=3)),
        (FixedLengthSteps(DPS()), FixedLengthSteps(DPS(scale=2.0))),
        (DPS("label"), DPS("hue")),
        (TemporalAlignment(strength=PolyakStrength(0.3)), TemporalAlignment(strength=PolyakStrength(0.2))),
        ([DPS(), TemporalAlignment()], [TemporalAlignment(), DPS()]),
        (DDIM(1.0), DDIM(0.0)),
        (Recurrence(2), Recurrence(3)),
        (np.zeros(2), np.zeros((2, 1))),
        (np.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.zeros(2), torch.zeros(2).half()),
        (Path("a"), "a"),
        (1, 1.0),
        (functools.partial(torch.add, 1), functools.partial(torch.add, 2)),
        (nn.ReLU, nn.SiLU),
    ],
    ids=lambda value: "",
)
def test_settings_count(first: Any, second: Any) -> None:
    assert of(first) != of(second)
    assert of(first) == of(first)


def test_an_attribute_changed_after_construction_counts() -> None:
    """Not the arguments of the constructor alone."""
    guidance = DPS(scale=1.0)
    guidance.scale = 2.0
    assert of(guidance) != of(DPS(scale=1.0))


def test_the_order_of_a_set_does_not_count() -> None:
    assert of(set("abcdefgh")) == of(set("hgfedcba"))
    first, second = unet(), unet()
    second._internal_dict["_use_default_values"].reverse()
    assert of(first) == of(second)


def test_objects_that_refer_to_each_other_have_an_end() -> None:
    def ring(value: int) -> dict[str, Any]:
        inner: dict[str, Any] = {"value": value}
        inner["around"] = {"inside": inner}
        return inner

    assert of(ring(1)) == of(ring(1)) != of(ring(2))


def test_what_another_process_could_not_find_is_refused() -> None:
    class Local:
        pass

    for value in (lambda x: x, Local(), np.random.default_rng(0), torch.Generator(), iter([1]), object()):
        with pytest.raises(IndescribableError):
            of({"inside": [value]})


def test_remembered_objects_are_described_once() -> None:
    network, prints = nn.Linear(2, 2), Fingerprints()
    prints.remember(network)
    before = prints.of([network])
    nn.init.zeros_(network.weight)
    assert prints.of([network]) == before
    assert of([network]) != before


def test_source_code_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class of one's own that was edited between two runs, with the same arguments."""
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for factor in (1, 2, 1):
        (tmp_path / "own_guidance.py").write_text(f"class Own:\n    def scaled(self):\n        return {factor}\n")
        monkeypatch.delitem(sys.modules, "own_guidance", raising=False)
        importlib.invalidate_caches()
        fingerprint._source_digest.cache_clear()
        found.append(of(importlib.import_module("own_guidance").Own()))
    assert found[0] == found[2] != found[1]


def test_weights_of_which_each_process_has_an_unknown_part_are_refused() -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel

    flattened = FullyShardedDataParallel.__new__(FullyShardedDataParallel)
    nn.Module.__init__(flattened)
    flattened._modules["_fsdp_wrapped_module"] = nn.Linear(1, 1)
    with pytest.raises(IndescribableError, match="of whose weights each process has a part; use fully_shard"):
        Fingerprints().of(nn.Sequential(flattened))


def test_a_recurrent_network_refers_weakly_to_its_weights() -> None:
    def lstm(seed: int) -> nn.Module:
        return seeded(lambda: nn.LSTM(3, 4), seed)

    assert of(lstm(0)) == of(lstm(0)) != of(lstm(1))
