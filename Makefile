# The README's two commands. Both set up .venv when there is none.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
CONFIG := configs/digits/time_predictor.yaml
WEIGHTS := tag_lightning/pretrained/digits

.PHONY: demo test slow lint weights benchmarks seeds

demo: $(VENV)/.ready
	@echo "$(RUN) -m tag_lightning fit --config $(CONFIG)"
	@$(RUN) -m tag_lightning fit --config $(CONFIG)

test: $(VENV)/.ready
	$(RUN) -m pytest

slow: $(VENV)/.ready
	$(RUN) -m pytest -m slow

lint: $(VENV)/.ready
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

# Makes the shipped networks again, the judge and the guide first: the denoiser's own evaluation uses the judge.
weights: $(VENV)/.ready
	for stage in guide judge denoiser time_gap_predictor; do \
	  $(RUN) -m tag_lightning fit --config configs/digits/$$stage.yaml || exit 1; \
	  rm -rf $(WEIGHTS)/$$stage && cp -r runs/digits/$$stage/pretrained $(WEIGHTS)/$$stage || exit 1; \
	done

seeds: $(VENV)/.ready
	$(RUN) -m benchmarks.seeds --config $(CONFIG) --seeds 0 1 2

benchmarks: $(VENV)/.ready
	$(RUN) -m benchmarks.speed

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"Python 3.11 to 3.13 is needed, this is {v[0]}.{v[1]}; run make PYTHON=python3.12 (or another) instead")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@
