"""Two processes give what one gives, bit for bit where nothing is rounded."""

from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tag_lightning.metrics import RowsByIndex, TimeCalibration, TimeGap, TypicalNLL

TIMESTEPS = 12
SAMPLES = 23


def measure(chunks):
    """Everything the metrics say about these chunks of ``(index, logits, timesteps)``."""
    gap, typical, calibration = TimeGap(TIMESTEPS), TypicalNLL(TIMESTEPS), TimeCalibration(TIMESTEPS)
    rows = RowsByIndex({"logits": TIMESTEPS, "timestep": 1})
    for index, logits, timesteps in chunks:
        for metric in (gap, typical, calibration):
            metric.update(logits, timesteps)
        rows.update(index, logits=logits, timestep=timesteps)
    return {
        "gap": gap.compute(),
        "per_timestep": gap.per_timestep(),
        "per_tenth": gap.per_tenth(),
        "typical": typical.compute(),
        **calibration.compute(),
        **rows.compute(),
        # The states must be the process's own again, or the next update would count twice.
        "gap_again": gap.compute(),
        "per_tenth_again": gap.per_tenth(),
        "own": gap.counts.sum(),
    }


def chunks():
    generator = torch.Generator().manual_seed(0)
    index = torch.randperm(SAMPLES, generator=generator)
    logits = torch.randn(SAMPLES, TIMESTEPS, generator=generator)
    timesteps = torch.randint(0, TIMESTEPS - 2, (SAMPLES,), generator=generator)
    return list(zip(index.split(5), logits.split(5), timesteps.split(5), strict=True))


def run_rank(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    results = {"shared": measure(chunks()[rank::2]), "one_idle": measure(chunks() if rank == 1 else [])}
    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    # A fork spares the imports; nothing here differentiates, and tests run on one thread.
    mp.start_processes(run_rank, args=(str(folder),), nprocs=2, start_method="fork")
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", ["shared", "one_idle"])
def test_every_process_has_the_numbers_of_one(two_processes, case):
    alone = measure(chunks())
    for rank, results in enumerate(two_processes):
        own = results[case].pop("own")
        assert own == (sum(len(c[0]) for c in chunks()[rank::2]) if case == "shared" else rank * SAMPLES)
        for name, value in results[case].items():
            exact = name in {"gap", "per_timestep", "per_tenth", "logits", "timestep", "index", "gap_again"}
            torch.testing.assert_close(
                value, alone[name], rtol=0 if exact else 1e-14, atol=0, equal_nan=True, msg=f"{name} on rank {rank}"
            )
