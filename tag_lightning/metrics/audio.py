"""Distances of restored waveforms to their originals."""

from __future__ import annotations

from torch import Tensor
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio, signal_noise_ratio

from tag_lightning.metrics.restoration import RestorationMetric
from tag_lightning.spectrogram import log_spectrogram, window_length


class SNR(RestorationMetric):
    """Signal-to-noise ratio ``snr`` in dB, by torchmetrics; the noise is the difference to the original."""

    name = "snr"
    measured = ("waveforms", 2)

    def compared(self, restored: Tensor, originals: Tensor) -> Tensor:
        return signal_noise_ratio(restored, originals).mean(1)


class SISDR(RestorationMetric):
    """Scale-invariant signal-to-distortion ratio ``si_sdr`` in dB (Le Roux et al. 2019), by torchmetrics."""

    name = "si_sdr"
    measured = ("waveforms", 2)

    def compared(self, restored: Tensor, originals: Tensor) -> Tensor:
        return scale_invariant_signal_distortion_ratio(restored, originals).mean(1)


class LogSpectralDistance(RestorationMetric):
    """Log-spectral distance ``lsd`` in dB (Gray and Markel 1976), 0 for equal waveforms.

    The root mean square over the frequencies of the difference in level, then the mean over frames:
    ``mean_frames sqrt(mean_bins (S - S_hat)^2)`` with the levels ``S`` of ``log_spectrogram``. A change of gain by g dB
    gives g where both are above its floor of -80 dB; below it nothing counts, so that silence has a finite distance.
    Windows are the power of 2 nearest to 50 ms.
    """

    name = "lsd"
    measured = ("waveforms", 2)

    def compared(self, restored: Tensor, originals: Tensor) -> Tensor:
        window = window_length(self.task.data.sample_rate, originals.shape[-1])
        levels = (log_spectrogram(waveforms.flatten(0, 1), window) for waveforms in (restored, originals))
        difference = next(levels) - next(levels)
        return difference.square().mean(1).sqrt().mean(1).reshape(len(originals), -1).mean(1)
