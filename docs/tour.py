# %% [markdown]
# # A tour of `tag_lightning`
#
# A guided diffusion model pulls its samples away from the noise level that the denoiser expects, and the denoiser then
# makes mistakes. Temporal Alignment Guidance (TAG, [arXiv 2510.11057](https://arxiv.org/abs/2510.11057)) trains a *time
# predictor* $p_\phi(t \mid x)$ and moves every sample along the *time-linked score* $\nabla_x \log p_\phi(t \mid x)$,
# towards the timestep it should be at.
#
# This page shows the idea in the plane, where everything can be drawn and checked against closed forms, and then on
# images of digits. It takes about a minute on one CPU core. `make tour` runs it again.

# %%
import logging

import lightning as L
import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

from tag_lightning import DDIM, DPS, Denoiser, Sampler, TemporalAlignment, compare, load_pretrained
from tag_lightning.datamodules import DigitsDataModule, MixtureDataModule
from tag_lightning.diffusion import BoxSpace, Step
from tag_lightning.evaluation import Arm, ImageTask, Results, VectorTask
from tag_lightning.evaluation.figures import sample_grid, scatter_2d, time_gap_curves
from tag_lightning.evaluation.results import results_table
from tag_lightning.guidance import Drift, FixedLengthSteps
from tag_lightning.modules import TimePredictorModule
from tag_lightning.networks import MLPTimePredictor

# %matplotlib inline
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # no banner about devices

# %% tags=["parameters"]
NUM_POINTS = 1000  # samples per arm in the plane
NUM_EPOCHS = 12  # of training the time predictor, 98 steps each
NUM_DIGITS = 64  # samples per arm of digits
NUM_STEPS = 25  # reverse steps for digits

# %% [markdown]
# ## The toy: two Gaussians in the plane
#
# The data are $\frac12 N((10, 10), I) + \frac12 N((-10, -10), I)$. At timestep $t$ the noisy data are again two unit
# Gaussians, at $\pm\sqrt{\bar\alpha_t}\,(10, 10)$, so the best possible denoiser is known exactly. It ships as
# `toy/denoiser`. The reverse process starts from noise around the origin ($t = 99$), and the two modes move apart.

# %%
toy = MixtureDataModule()
data = toy.table("train")[list(range(1000))].x
denoiser = Denoiser(*load_pretrained("toy/denoiser"))
seen = {}


def keep(x: Tensor, step: Step) -> None:
    if step.timestep in (99, 60, 30):
        seen[f"t = {step.timestep}"] = x


space = BoxSpace((2,), range(NUM_POINTS))
samples = Sampler(denoiser, DDIM(), num_steps=100).sample(space, seed=0, observers=[keep])
scatter_2d(seen | {"samples": samples}, data)

# %% [markdown]
# ## The time predictor
#
# `TimePredictorModule` trains any network from noisy samples to logits over timesteps, by cross-entropy. A small
# perceptron and a few seconds are enough here. Validation also measures how likely real noisy data are at every
# timestep (`typical_nll`), which TAG's default strength uses to leave good samples alone.

# %%
torch.manual_seed(0)
module = TimePredictorModule(MLPTimePredictor(), denoiser.schedule, lambda p: torch.optim.Adam(p, lr=1e-3))
trainer = L.Trainer(
    accelerator="cpu",
    max_epochs=NUM_EPOCHS,
    check_val_every_n_epoch=NUM_EPOCHS,
    num_sanity_val_steps=0,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(module, toy)
predictor = module.network.eval()
print(f"validation: mean error {trainer.callback_metrics['val/time_gap']:.1f} of 100 timesteps")

# %% [markdown]
# ## The field of the time-linked score
#
# In this toy Bayes' rule gives the exact posterior too: with all timesteps equally likely, $\log p(t \mid x)$ is
# $\log p(x \mid t)$ up to a constant. Any module that returns logits `[B, T]` is a time predictor.


# %%
class ExactPosterior(nn.Module):
    def __init__(self, alphas_cumprod: Tensor) -> None:
        super().__init__()
        modes = torch.tensor([[10.0, 10.0], [-10.0, -10.0]])
        self.register_buffer("centres", alphas_cumprod.float().sqrt()[:, None, None] * modes)  # [T, 2 modes, 2]

    def forward(self, x: Tensor) -> Tensor:
        return (-(x[:, None, None] - self.centres).square().sum(-1) / 2).logsumexp(-1)  # [B, T]


exact = ExactPosterior(denoiser.schedule.alphas_cumprod)

# %% [markdown]
# The arrows show where TAG would move a sample that should be at $t = 50$; grey are noisy data of all timesteps, the
# crosses the two modes at $t = 50$.

# %%
generator = torch.Generator().manual_seed(0)
levels = torch.randint(100, (len(data),), generator=generator)
noisy = denoiser.schedule.add_noise(data, torch.randn(data.shape, generator=generator), levels)
timestep, side = 50, torch.linspace(-14, 14, 21)
grid = torch.cartesian_prod(side, side)
figure, panels = plt.subplots(1, 2, figsize=(10, 4.6), sharey=True, layout="constrained")
for axes, (name, network) in zip(panels, {"exact": exact, "learned": predictor}.items(), strict=True):
    score = TemporalAlignment(network).time_linked_score(grid, timestep)
    length = score.norm(dim=1).clamp(min=1e-6)
    axes.scatter(*noisy.T, s=8, color="#C8C8C8", linewidths=0)
    arrows = axes.quiver(*grid.T, *(score.T / length), length, cmap="viridis", pivot="mid", clim=(0, 7))
    axes.plot(*exact.centres[timestep].T, "x", color="#D55E00", markersize=10, markeredgewidth=3)
    axes.set(title=f"{name}, t = {timestep}", xlabel="$x_1$", aspect="equal")
panels[0].set_ylabel("$x_2$")
figure.colorbar(arrows, ax=panels, label="length")
plt.show()

# %% [markdown]
# A sample too close to the origin looks too noisy and is pushed outwards; one too far out looks too clean and is pulled
# back. On noisy data the learned field agrees with the exact one. Away from them, in the empty corners, the predictor
# has never seen a sample and its field is a guess.

# %%
fields = [TemporalAlignment(network).time_linked_score(noisy, timestep).flatten() for network in (exact, predictor)]
print(f"cosine of the exact and the learned field on noisy data: {torch.cosine_similarity(*fields, dim=0):.3f}")

# %% [markdown]
# ## Off the manifold, and back
#
# `Drift(-0.01)` shrinks the sample by 1 % after every step, as a stand-in for a guidance gradient that does not know
# the noise level. An *arm* is a list of guidance; `compare` draws all arms from the same noise and measures them. Here
# `w1` is the 1-Wasserstein distance to the data, and the Time-Gap is how many timesteps the samples are away from where
# the denoiser expects them. The learned predictor corrects and the exact posterior measures, so nobody marks their own
# work.

# %%
toy_arms = {
    "unguided": Arm(),
    "unguided+tag": Arm([TemporalAlignment()]),
    "drift": Arm([Drift(-0.01)]),
    "drift+tag": Arm([Drift(-0.01), TemporalAlignment()]),
    "drift+tag 0.3": Arm([Drift(-0.01), TemporalAlignment(strength=0.3)]),
    "drift+tag 5.0": Arm([Drift(-0.01), TemporalAlignment(strength=5.0)]),
}
toy_results = compare(
    toy_arms,
    denoiser,
    VectorTask().for_data(toy),
    NUM_POINTS,
    predictor=predictor,
    time_gap_predictor=exact,
    chunk_size=NUM_POINTS,
    num_kept=NUM_POINTS,
    progress=False,
)


def figures(results: Results, *names: str) -> dict[str, dict[str, float]]:
    return {arm: {name: values[name] for name in names} for arm, values in results.figures.items()}


results_table(figures(toy_results, "w1", "time_gap"))

# %%
shown = ("unguided", "drift", "drift+tag", "drift+tag 0.3")
scatter_2d({arm: toy_results[arm].samples for arm in shown}, data)

# %%
time_gap_curves({arm: (toy_results[arm].timesteps, toy_results[arm].gaps) for arm in shown})

# %% [markdown]
# The drift leaves the samples short of the data (grey), and their Time-Gap grows towards the clean end. TAG brings them
# back, halfway with its default strength, which needs no tuning, and further with a constant of 0.3.
#
# **Where TAG does not help:** it makes samples *typical*, not diverse: along the direction in which time can be read it
# squeezes each mode into a line, and a Time-Gap below that of `unguided` says just that. So samples that were fine get
# a little worse (`unguided+tag`), and too large a strength over-corrects: `drift+tag 5.0` ends almost as far from the
# data as without TAG, at a larger Time-Gap.

# %% [markdown]
# ## Digits
#
# The same call on tinted 16x16 digits, with networks that ship with the package. Guidance asks every sample for a
# digit: `dps` at the best of its scales, `strong dps` at a scale so large that it breaks images, and `fixed length`
# with steps whose length is 3 % of the noise that they leave, whatever the gradient. A judge that never guides measures
# `accuracy`, and its features give the Frechet distance `fid`. Only one time predictor for digits ships, so here it
# corrects *and* measures: read the Time-Gap of `strong dps+tag` as flattered. `make demo` trains a second one for a
# fair measurement.

# %%
digit_arms = {
    "unguided": Arm(),
    "dps": Arm([DPS(scale=0.25)]),
    "strong dps": Arm([DPS(scale=8.0)]),
    "strong dps+tag": Arm([TemporalAlignment(), DPS(scale=8.0)]),
    "fixed length": Arm([FixedLengthSteps(DPS())]),
}
digit_results = compare(
    digit_arms,
    "digits/denoiser",
    ImageTask("digits/guide", "digits/judge", features="judge").for_data(DigitsDataModule()),
    NUM_DIGITS,
    predictor="digits/time_gap_predictor",
    solver=DDIM(eta=0.0),
    num_steps=NUM_STEPS,
    chunk_size=NUM_DIGITS,
    progress=False,
)
results_table(figures(digit_results, "fid", "accuracy", "time_gap"))

# %% [markdown]
# Samples are asked for the digits 0 to 9 in turn, so column $k$ below should show the digit $k$. The arms are paired:
# the same place is the same noise and the same target. Accuracy of `unguided` is chance.

# %%
figure, panels = plt.subplots(len(digit_results), 1, figsize=(7, 8.2), layout="constrained")
for axes, (arm, result) in zip(panels, digit_results.items(), strict=True):
    axes.imshow(sample_grid(result.samples[:20], columns=10).permute(1, 2, 0))
    axes.set_title(arm)
    axes.set_axis_off()
plt.show()

# %%
time_gap_curves({arm: (result.timesteps, result.gaps) for arm, result in digit_results.items()})

# %% [markdown]
# TAG brings the strongly guided samples closer to their timestep, lowers the distance and raises the accuracy. The
# pictures show what it removes: saturated pixel noise. Strokes appear, but most images stay broken.
#
# **Where TAG does not help:** it does not undo a guidance scale that is far too large; `dps`, at the best of its
# scales, has a smaller distance and a higher accuracy, and steps of a fixed length are better still and need no scale.
# Beside them TAG has nothing to repair here. It does repair a weak denoiser, few bits, few steps and other disturbed
# processes, see [questions.md](questions.md). And 64 samples of one seed are a picture, not a measurement:
# [results_digits.md](results_digits.md) has 512 samples over three seeds.
