"""The benchmark prints what it measures, and finds the estimates as close as documented."""

from __future__ import annotations

import re

import pytest

from benchmarks import noise_levels


def test_the_estimates_of_the_noise_of_digits_are_as_close_as_documented(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["digits/time_predictor", "digits", "--count", "60", "--patch-size", "2", "--timesteps", "519"]
    noise_levels.main(chosen)
    printed = capsys.readouterr().out
    found = {
        name: (float(bias), float(spread))
        for name, bias, spread in re.findall(r"(\w+Noise)\S* +│ (\S+) ± (\S+)", printed)
    }
    assert found.keys() == {"RegressedNoise", "PatchNoise", "WaveletNoise"}, printed
    assert all(abs(bias) < 0.05 for bias, _ in found.values())
    assert found["RegressedNoise"][1] < 0.04 < found["WaveletNoise"][1] < 0.12
    assert found["PatchNoise"][1] < 0.06
