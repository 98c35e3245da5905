# The README's two commands. Both set up .venv when there is none.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
CONFIG := configs/digits/time_predictor.yaml
MOLECULES := configs/molecules/time_predictor.yaml
QM9 := configs/qm9_small/comparison.yaml
CIFAR10 := configs/cifar10_small/comparison.yaml
# Where mypy finds the package as it is installed: see [tool.mypy] in pyproject.toml.
LINKS := .mypy_cache/sources

.PHONY: demo demo-molecules demo-qm9 demo-cifar10 test slow lint tour weights benchmarks
.PHONY: seeds seeds-strengths seeds-bounded-steps seeds-frontier seeds-molecules seeds-qm9 seeds-cifar10

demo: $(VENV)/.ready
	@echo "$(RUN) -m tag_lightning fit --config $(CONFIG)"
	@$(RUN) -m tag_lightning fit --config $(CONFIG)

demo-molecules: $(VENV)/.ready
	@echo "$(RUN) -m tag_lightning fit --config $(MOLECULES)"
	@$(RUN) -m tag_lightning fit --config $(MOLECULES)

# Trains nothing and needs no file of QM9: networks and statistics ship with the package.
demo-qm9: $(VENV)/.ready
	@echo "$(RUN) -m tag_lightning validate --config $(QM9) --sampling.num_samples 48"
	@$(RUN) -m tag_lightning validate --config $(QM9) --sampling.num_samples 48

# Likewise without an image of CIFAR-10.
demo-cifar10: $(VENV)/.ready
	@echo "$(RUN) -m tag_lightning validate --config $(CIFAR10)"
	@$(RUN) -m tag_lightning validate --config $(CIFAR10)

test: $(VENV)/.ready
	$(RUN) -m pytest

slow: $(VENV)/.ready
	$(RUN) -m pytest -m slow

lint: $(VENV)/.ready
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	rm -rf $(LINKS) && mkdir -p $(LINKS)/tag_lightning
	ln -sfn $(CURDIR)/tag_lightning/* $(CURDIR)/callbacks $(CURDIR)/configs $(CURDIR)/datamodules $(LINKS)/tag_lightning
	ln -s $(CURDIR)/benchmarks $(LINKS)
	$(RUN) -m mypy

# Executes docs/tour.py and writes it with its outputs as docs/tour.ipynb.
tour: $(VENV)/.ready
	$(RUN) docs/tour_notebook.py

# Makes the shipped networks again. Stages that are finished in runs/ are not repeated: remove their folders first. Those of QM9
# and CIFAR-10, `make weights-qm9_small weights-cifar10_small`, need the data and about a day each.
weights: weights-digits weights-latent_digits weights-molecules weights-audio

# The stages whose networks the experiments use, and those that learn from the networks of the former.
WEIGHTS_digits := guide judge denoiser time_gap_predictor time_predictor noise_level conditional_denoiser small_conditional_denoiser reward_tuned_denoiser x0_denoiser velocity_denoiser timestep_dropout_denoiser
WEIGHTS_latent_digits := autoencoder denoiser time_gap_predictor time_predictor
WEIGHTS_molecules := guide judge denoiser time_gap_predictor time_predictor noise_level
WEIGHTS_audio := judge denoiser time_gap_predictor time_predictor
WEIGHTS_qm9_small := guide judge denoiser time_gap_predictor noise_level time_predictor
WEIGHTS_cifar10_small := judge guide denoiser time_gap_predictor noise_level time_predictor
DISTILLED_digits := guidance_adapters noisy_guide

# $(call remake,kind,stages)
define remake
	$(RUN) -m tag_lightning stages --config configs/$(1) --out runs/$(1) --only $(2)
	for stage in $(2); do \
	  rm -rf tag_lightning/pretrained/$(1)/$$stage || exit 1; \
	  mkdir -p tag_lightning/pretrained/$(1) && cp -r runs/$(1)/$$stage/pretrained tag_lightning/pretrained/$(1)/$$stage || exit 1; \
	done
endef

# $(call halve,files): to half precision, which diffusers loads in single.
define halve
	$(RUN) -c "import sys; from safetensors.torch import load_file, save_file; \
	  [save_file({k: v.half() for k, v in load_file(f).items()}, f, {'format': 'pt'}) for f in sys.argv[1:]]" $(1)
endef

weights-%: $(VENV)/.ready
	$(call remake,$*,$(WEIGHTS_$*))
	$(if $(DISTILLED_$*),$(call remake,$*,$(DISTILLED_$*)))

# As the rule above, then in half precision.
weights-latent_digits: $(VENV)/.ready
	$(call remake,latent_digits,$(WEIGHTS_latent_digits))
	$(call halve,tag_lightning/pretrained/latent_digits/*/diffusion_pytorch_model.safetensors)

# As the rule for any kind above, then the statistics that replace the files of QM9 and CIFAR-10 in a comparison.
weights-qm9_small: $(VENV)/.ready
	$(call remake,qm9_small,$(WEIGHTS_qm9_small))
	$(RUN) -m benchmarks.data_statistics qm9_small/time_predictor tag_lightning/pretrained/qm9_small/statistics.safetensors \
	  --judge qm9_small/judge

weights-cifar10_small: $(VENV)/.ready
	$(call remake,cifar10_small,$(WEIGHTS_cifar10_small))
	$(call halve,$(foreach stage,denoiser time_predictor time_gap_predictor,tag_lightning/pretrained/cifar10_small/$(stage)/diffusion_pytorch_model.safetensors))
	$(RUN) -m benchmarks.data_statistics cifar10_small/denoiser tag_lightning/pretrained/cifar10_small/statistics.safetensors \
	  --judge cifar10_small/judge

seeds: $(VENV)/.ready
	$(RUN) -m benchmarks.seeds --config $(CONFIG) --seeds 0 1 2

seeds-strengths: $(VENV)/.ready
	$(RUN) -m benchmarks.seeds --verb validate --config experiments/strengths --seeds 0 1 2 --out runs/experiments/strengths

seeds-bounded-steps: $(VENV)/.ready
	$(RUN) -m benchmarks.seeds --verb validate --config experiments/bounded_steps --seeds 0 1 2 --out runs/experiments/bounded_steps

seeds-frontier: $(VENV)/.ready
	$(RUN) -m benchmarks.seeds --verb validate --config experiments/frontier --seeds 0 1 2 --out runs/experiments/frontier

seeds-molecules: $(VENV)/.ready
	$(RUN) -m benchmarks.seeds --verb validate --config experiments/molecules --seeds 0 1 2 --out runs/experiments/molecules \
	  -- --sampling.task.init_args.physics true --sampling.task.init_args.error_details true

seeds-qm9: $(VENV)/.ready
	$(RUN) -m benchmarks.seeds --verb validate --config qm9_small/comparison --seeds 0 1 2 --out runs/qm9_small/comparison

seeds-cifar10: $(VENV)/.ready
	$(RUN) -m benchmarks.seeds --verb validate --config cifar10_small/comparison --seeds 0 1 2 --out runs/cifar10_small/comparison

benchmarks: $(VENV)/.ready
	$(RUN) -m benchmarks.speed
	$(RUN) -m benchmarks.methods

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"Python 3.11 to 3.13 is needed, this is {v[0]}.{v[1]}; run make PYTHON=python3.12 (or another) instead")'
	@echo "Setting up $(VENV): the downloads, torch above all, take some minutes and, with CUDA, up to 11 GB of disk"
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev,physics]'
	@touch $@
