"""Restoration of real sound from noisy measurements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tag_lightning.diffusion import BoxSpace
from tag_lightning.evaluation.arm_result import ArmResult
from tag_lightning.evaluation.figures import sample_grid
from tag_lightning.evaluation.image_task import side_by_side
from tag_lightning.evaluation.report import Sound, write_sounds
from tag_lightning.evaluation.restoration_task import RestorationTask
from tag_lightning.measurements import Measurement
from tag_lightning.metrics import FAD, FID, SISDR, SNR, LogSpectralDistance, SampleMetric
from tag_lightning.spectrogram import FLOOR, log_spectrogram, window_length

_HEIGHT, _WIDTH = 64, 96  # pixels per spectrogram
_HEARD = 8  # clips per sound file
_PAUSE = 0.15  # seconds between clips


class AudioRestorationTask(RestorationTask):
    """Waveforms of the test split restored from measurements, guided by ``-|y - A x0|`` as in ``RestorationTask``.

    The declipping and inpainting of arXiv 2510.11057, on waveforms. Measured by the log-spectral distance ``lsd``,
    ``snr`` and ``si_sdr`` (dB), with a judge by ``frechet``, the Frechet distance of its features to the training data,
    and by ``fad`` if VGGish's weights are found and clips are long enough. Networks that say at which sample rate they
    were trained must agree with the data.

    Args:
        measurement: The operator and its noise, ``Clipping`` or ``MissingIntervals``.
        judge: Network of waveforms whose features the Frechet distance uses, such as ``SpectrogramClassifier``.
        metrics: Additional metrics.
    """

    axes = ("C", "L")

    def __init__(
        self,
        measurement: Measurement,
        judge: str | nn.Module | None = None,
        metrics: list[SampleMetric] | None = None,
    ) -> None:
        super().__init__(measurement, judge, "judge", metrics)

    def load(self) -> None:
        if not hasattr(self.data, "sample_rate"):
            raise ValueError(
                f"AudioRestorationTask needs sound, but {type(self.data).__name__} has no sample rate; use "
                "AudioFolderDataModule or another AudioDataModule"
            )
        super().load()

    def require_networks(self, networks: Iterable[nn.Module]) -> None:
        rate = self.data.sample_rate
        for network in networks:
            inner = getattr(network, "network", network)  # of a Denoiser
            config = getattr(inner, "config", {})
            trained = config.get("sample_rate") if isinstance(config, Mapping) else None
            if trained is not None and trained != rate:
                raise ValueError(
                    f"a network ({type(inner).__name__}) was trained at {trained} Hz but the data have {rate} Hz; take "
                    f"data of {trained} Hz (data.init_args.sample_rate) or networks trained at {rate} Hz"
                )

    def default_metrics(self) -> list[SampleMetric]:
        learned = [] if self.judge is None else [FID("judge", "frechet")]
        return [LogSpectralDistance(), SNR(), SISDR(), *learned, FAD()]

    def space(self, indices: Sequence[int], device: torch.device) -> BoxSpace:
        return BoxSpace(self.sample_shape, indices, device, clip_range=(-1.0, 1.0))

    def pictures(self, results: Mapping[str, ArmResult], predictor: nn.Module | None) -> dict[str, Tensor]:
        """Spectrograms: a grid per arm; originals, measurements and the first samples of all arms side by side."""
        shown = {name: self._spectrograms(waveforms) for name, waveforms in self._shown(results).items()}
        return {f"samples/{name}": sample_grid(shown[name]) for name in results} | {"arms": side_by_side(shown)}

    def sounds(self, results: Mapping[str, ArmResult]) -> dict[str, Sound]:
        """The first samples of each arm one after another, likewise of the originals and the measurements."""
        shown = self._shown(results)
        return {f"sounds/{name}": Sound(self._joined(x), self.data.sample_rate) for name, x in shown.items()}

    def write(self, result: ArmResult, folder: Path, name: str) -> list[Path]:
        """Write the samples of an arm to ``<name>.npz``, and each to a WAV file in the folder ``<name>``."""
        rate = self.data.sample_rate
        write_sounds(folder / name, {f"{k:05d}": Sound(x.mean(0), rate) for k, x in enumerate(result.samples)})
        return [*super().write(result, folder, name), folder / name]

    def _shown(self, results: Mapping[str, ArmResult]) -> dict[str, Tensor]:
        samples = {name: result.samples for name, result in results.items()}
        indices = range(len(next(iter(samples.values()))))
        return {"original": self.originals(indices), "measurement": self.measured(indices)[1]} | samples

    def _spectrograms(self, waveforms: Tensor) -> Tensor:
        """Pictures ``[B, 3, H, W]`` in [-1, 1], low frequencies below."""
        # Half the window of the metric: few frames of a short clip would be seen otherwise.
        window = window_length(self.data.sample_rate, self.sample_shape[-1]) // 2
        levels = log_spectrogram(waveforms.mean(1), max(4, window)).flip(1)[:, None]
        scaled = F.interpolate(1 - levels / FLOOR, (_HEIGHT, _WIDTH), mode="bilinear")[:, 0].clamp(0, 1)
        colours = torch.from_numpy(matplotlib.colormaps["magma"](scaled.numpy())[..., :3])
        return (2 * colours - 1).permute(0, 3, 1, 2).float()

    def _joined(self, waveforms: Tensor) -> Tensor:
        pause = torch.zeros(round(_PAUSE * self.data.sample_rate))
        clips = waveforms[:_HEARD].mean(1)
        return torch.cat([part for clip in clips for part in (clip, pause)])
