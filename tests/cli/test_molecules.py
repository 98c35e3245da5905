"""Molecules through the public command line, with networks of a few weights on molecules of three heavy atoms."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import TASK, seeded

from tag_lightning.chemistry import read_sdf
from tag_lightning.cli import main
from tag_lightning.diffusion import PolynomialSchedule
from tag_lightning.networks import EGNNDenoiser, EGNNPropertyPredictor, EGNNTimePredictor
from tag_lightning.pretrained import load_pretrained, save_pretrained

TIMESTEPS = 20
ARMS = """
unguided: {}
dps:
  guidance: [{class_path: tag_lightning.guidance.DPS, init_args: {condition: alpha, scale: 5, clip: 1}}]
dps+tag:
  guidance:
    - {class_path: tag_lightning.guidance.TemporalAlignment}
    - {class_path: tag_lightning.guidance.DPS, init_args: {condition: alpha, scale: 5, clip: 1}}
both+tag:
  guidance:
    - {class_path: tag_lightning.guidance.TemporalAlignment, init_args: {strength: 0.01}}
    - {class_path: tag_lightning.guidance.DPS, init_args: {condition: [alpha, mu], scale: 5, clip: 1}}
broken:
  guidance: [{class_path: tag_lightning.guidance.DPS, init_args: {scale: 1.0e+30}}]
"""


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("molecules")
    schedule = PolynomialSchedule(TIMESTEPS)
    denoiser = seeded(lambda: EGNNDenoiser(5, TIMESTEPS, width=8, num_blocks=1, longest=1.0), 0)
    save_pretrained(root / "denoiser", denoiser, schedule)
    predictor = seeded(lambda: EGNNTimePredictor(5, TIMESTEPS, width=8, num_layers=1), 1)
    save_pretrained(root / "time_gap_predictor", predictor, schedule)
    for seed, name in ((2, "guide"), (3, "judge")):
        network = seeded(lambda: EGNNPropertyPredictor(("alpha", "mu"), width=8, num_layers=1), seed)
        network.mean.copy_(torch.tensor([30.0, 2.0]))
        network.spread.copy_(torch.tensor([8.0, 1.0]))
        save_pretrained(root / name, network, None)
    return root


def data_arguments(verb: str, run: Path) -> list[str]:
    return [
        verb,
        "--data=SmallMoleculesDataModule",
        "--data.init_args.max_heavy_atoms=3",
        "--data.init_args.batch_size=8",
        f"--data.init_args.cache={run.parent / 'cache'}",
        f"--trainer.default_root_dir={run}",
        "--trainer.accelerator=cpu",
    ]


def arguments(verb: str, run: Path, networks: Path, *more: str) -> list[str]:
    arms = run.parent / "arms.yaml"
    arms.write_text(f"sampling:\n  arms:{''.join(f'    {line}' for line in ARMS.splitlines(keepends=True))}")
    model = [
        "--model=tag_lightning.modules.TimePredictorModule",
        "--model.init_args.network=tag_lightning.networks.EGNNTimePredictor",
        f"--model.init_args.network.init_args.num_timesteps={TIMESTEPS}",
        "--model.init_args.network.init_args.width=8",
        "--model.init_args.schedule=tag_lightning.diffusion.PolynomialSchedule",
        f"--model.init_args.schedule.init_args.num_timesteps={TIMESTEPS}",
    ]
    sampling = ["--sampling.task=MoleculeTask", *(f"{TASK}.{role}={networks / role}" for role in ("guide", "judge"))]
    sampling += [f"--sampling.{role}={networks / role}" for role in ("denoiser", "time_gap_predictor")]
    sampling += ["--sampling.num_steps=4"]
    sampling += ["--sampling.num_samples=6", "--sampling.chunk_size=4", f"--config={arms}"]
    steps = ["--trainer.max_steps=3"] if verb == "fit" else []
    return [*data_arguments(verb, run), *model, *sampling, *steps, *more]


@pytest.fixture(scope="module")
def trained(networks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "molecules"
    main(arguments("fit", run, networks))
    return run


def test_fit_writes_what_the_contract_says(trained: Path) -> None:
    results = json.loads((trained / "results.json").read_text())
    assert list(results["arms"]) == ["unguided", "dps", "dps+tag", "both+tag", "broken"]
    for figures in results["arms"].values():
        assert figures["num_samples"] == 6
        for name in ("atom_stability", "molecule_stability", "validity", "connected", "uniqueness", "novelty", "nan"):
            assert 0 <= figures[name] <= 1
    for name in ("mae_alpha", "mae_mu", "time_gap"):
        assert results["arms"]["dps+tag"][name] >= 0
    reference = results["reference"]
    assert reference["atom_stability"] > 0.9
    assert {"mae_alpha", "mae_mu"} <= reference.keys()
    assert "novelty" not in reference


def test_samples_that_are_not_finite_are_counted_not_dropped(trained: Path) -> None:
    arms = json.loads((trained / "results.json").read_text())["arms"]
    assert arms["broken"]["nan"] > 0
    assert arms["broken"]["validity"] <= 1 - arms["broken"]["nan"]
    assert arms["dps"]["nan"] == 0


def test_guidance_on_one_property_and_on_two_differ(trained: Path) -> None:
    arms = json.loads((trained / "results.json").read_text())["arms"]
    assert len({arms[name]["mae_alpha"] for name in ("unguided", "dps", "dps+tag", "both+tag")}) == 4


def test_pictures_are_drawn(trained: Path) -> None:
    names = ["properties.png", "time_gap.png", *(f"samples/{arm}.png" for arm in ("unguided", "dps+tag", "broken"))]
    for name in names:
        assert (trained / name).stat().st_size > 1000


def test_predict_writes_files_that_chemists_read(trained: Path, networks: Path, tmp_path: Path) -> None:
    checkpoint = f"--ckpt_path={trained / 'checkpoints' / 'last.ckpt'}"
    run = tmp_path / "run"
    main(arguments("predict", run, networks, checkpoint, "--sampling.predict_arm=dps+tag"))
    records = list(read_sdf(run / "samples" / "dps+tag.sdf", sanitize=False))
    assert len(records) == 6
    for index, mol, _ in records:
        assert mol is not None
        fields = mol.GetPropsAsDict()
        assert fields["sample"] == index
        assert {"alpha", "mu", "target_alpha", "target_mu"} <= fields.keys()
    assert (run / "samples" / "dps+tag-perceived.sdf").is_file()
    with np.load(run / "samples" / "dps+tag.npz") as archive:
        numbers, positions = archive["numbers"], archive["positions"]
    assert [mol.GetNumAtoms() for _, mol, _ in records] == (numbers > 0).sum(1).tolist()
    assert np.abs(positions[numbers == 0]).max() == 0
    means = positions.sum(1) / (numbers > 0).sum(1)[:, None]
    assert np.abs(means).max() < 1e-4


def test_validate_repeats_the_figures_of_fit(trained: Path, networks: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    main(arguments("validate", run, networks, f"--ckpt_path={trained / 'checkpoints' / 'last.ckpt'}"))
    expected = json.loads((trained / "results.json").read_text())["arms"]
    again = json.loads((run / "results.json").read_text())["arms"]
    for arm in ("unguided", "dps", "dps+tag"):
        for name in ("mae_alpha", "atom_stability", "time_gap"):
            assert again[arm][name] == expected[arm][name]


def test_a_guide_is_trained_in_the_units_of_the_data(tmp_path: Path) -> None:
    run = tmp_path / "guide"
    network = "--model.init_args.network"
    main(
        [
            *data_arguments("fit", run),
            "--data.init_args.half=first",
            "--model=tag_lightning.modules.RegressionModule",
            f"{network}=tag_lightning.networks.EGNNPropertyPredictor",
            f"{network}.init_args.properties=[alpha,mu]",
            f"{network}.init_args.width=8",
            f"{network}.init_args.num_layers=1",
            "--trainer.max_steps=3",
        ]
    )
    loaded = load_pretrained(run / "pretrained").network
    assert isinstance(loaded, EGNNPropertyPredictor)
    assert 15 < float(loaded.mean[0]) < 45  # bohr^3
    assert 0.2 < float(loaded.spread[1]) < 3  # debye


def test_a_denoiser_is_trained_and_samples(tmp_path: Path, networks: Path) -> None:
    run = tmp_path / "denoiser"
    network = "--model.init_args.network"
    main(
        [
            *data_arguments("fit", run),
            "--model=tag_lightning.modules.DiffusionModule",
            f"{network}=tag_lightning.networks.EGNNDenoiser",
            f"{network}.init_args.num_timesteps={TIMESTEPS}",
            f"{network}.init_args.width=8",
            f"{network}.init_args.num_blocks=1",
            "--model.init_args.schedule=tag_lightning.diffusion.PolynomialSchedule",
            f"--model.init_args.schedule.init_args.num_timesteps={TIMESTEPS}",
            "--trainer.max_epochs=1",
            "--sampling.task=MoleculeTask",
            f"{TASK}.judge={networks / 'judge'}",
            "--sampling.num_samples=4",
            "--sampling.num_steps=3",
        ]
    )
    arms = json.loads((run / "results.json").read_text())["arms"]
    assert list(arms) == ["unguided", "corruption"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data.init_args.properties=[alpha]"], r"init_args\.guide .* predicts 'mu', which the data do not carry"),
        (["--data.init_args.properties=[alpha, mu, magic]"], r"magic"),
        (["--data.init_args.elements=[H, C, Xx]"], r"'Xx' is not an element"),
        (["--data.init_args.elements=[H, C, N, O]"], r"sampling\.denoiser .* cannot take samples"),
        (["--data.init_args.max_atoms=2"], r"0 of \d+ molecules can be used"),
        ([f"{TASK}.judge={{networks}}/guide"], r"the network that guides must not score"),
        ([f"{TASK}.guide={{networks}}/time_gap_predictor"], r"is a EGNNTimePredictor, not a predictor of properties"),
    ],
)
def test_what_does_not_fit_is_one_line(
    more: list[str], message: str, networks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with pytest.raises(SystemExit) as exit_:
        main(arguments("fit", run, networks, *(text.format(networks=networks) for text in more)))
    assert exit_.value.code != 0
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error:")
    assert re.search(message, last), last
    assert not (run / "results.json").exists()
