"""Samples per second by 1, 2 and 4 processes, relative to one.

    python -m benchmarks.processes --samples 256 --rounds 3

Draws the digits with DPS and TAG from the shipped networks, in chunks that the processes take in turn, and measures the
samples: what ``validate`` does for an arm. One thread per process on CPUs, a device per process on GPUs. The numbers of
processes take turns; the time of start-up and loading does not count. More processes than cores cannot be faster.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tag_lightning import DPS, TemporalAlignment
from tag_lightning.datamodules import DigitsDataModule
from tag_lightning.evaluation import Arm, ArmSampler, ImageTask
from tag_lightning.evaluation.networks import load_denoiser, load_time_predictor


def draw(rank: int, world_size: int, samples: int, chunk_size: int, folder: str) -> None:
    """Draw the samples as one of ``world_size`` processes; the first writes the seconds that all of them took."""
    torch.set_num_threads(1)
    on_gpu = torch.cuda.device_count() >= world_size
    device = torch.device("cuda", rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    meeting = f"file://{folder}/meeting"
    backend = "nccl" if on_gpu else "gloo"
    dist.init_process_group(
        backend, init_method=meeting, rank=rank, world_size=world_size, timeout=timedelta(minutes=30)
    )
    data = DigitsDataModule()
    task = ImageTask(guide="digits/guide", judge="digits/judge").for_data(data).for_samples(samples)
    denoiser = load_denoiser("digits/denoiser", data.example)
    predictor = load_time_predictor("digits/time_gap_predictor", "predictor", denoiser, data.example)
    sampler = ArmSampler(
        *(denoiser, task, predictor),
        num_steps=25,
        chunk_size=chunk_size,
        device=device,
        rank=rank,
        world_size=world_size,
        progress=False,
    )
    sampler.prepare()
    dist.barrier()
    started = time.perf_counter()
    sampler.draw("dps+tag", Arm([TemporalAlignment(), DPS()]))
    dist.barrier()
    if rank == 0:
        Path(folder, "seconds").write_text(str(time.perf_counter() - started))
    dist.destroy_process_group()


def samples_per_second(world_size: int, samples: int, chunk_size: int) -> float:
    """The rate of all processes together."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(draw, args=(world_size, samples, chunk_size, folder), nprocs=world_size)
        return samples / float(Path(folder, "seconds").read_text())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--chunk-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rates: dict[int, list[float]] = {count: [] for count in arguments.processes}
    for _ in range(arguments.rounds):
        for count, measured in rates.items():
            measured.append(samples_per_second(count, arguments.samples, arguments.chunk_size))
    first = rates[arguments.processes[0]]
    print(f"{os.cpu_count()} cores, {torch.cuda.device_count()} GPUs")
    for count, measured in rates.items():
        ratios = [rate / one for rate, one in zip(measured, first, strict=True)]
        print(
            f"{count} processes: {statistics.median(measured):6.1f} samples/s, "
            f"{statistics.median(ratios):.2f} times the first ({min(ratios):.2f} .. {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
