"""``python -m tag_lightning {fit,validate,test,predict,stages,arms}``."""

import sys

from tag_lightning.interruption import interruption

_HELP = """\
usage: python -m tag_lightning {fit,validate,test,predict,stages,arms} ...

Train and evaluate Temporal Alignment Guidance. A first run:
  python -m tag_lightning fit --config digits/time_predictor

  fit        train a network; if its configuration has `sampling`, compare the arms at validation
  validate   compare the arms with trained networks, on the validation data
  test       the same on the test data
  predict    draw the samples of one arm and write them to files
  stages     fit all networks of an experiment in turn, for example on your own images
  arms       list all guidance methods, with cost and parameters

An arm is one way of sampling, such as unguided, DPS, or DPS with TAG. fit --help lists all options,
stages --help those of stages."""

if __name__ == "__main__":
    # Lightning takes seconds to load.
    if sys.argv[1:] in ([], ["-h"], ["--help"]):
        print(_HELP)
        sys.exit(0 if sys.argv[1:] else 2)
    with interruption.ending_the_process():
        if sys.argv[1] == "arms":
            from tag_lightning.guidance_list import main
        elif sys.argv[1] == "stages":
            from tag_lightning.stages import main  # type: ignore[assignment]
        else:
            from tag_lightning.cli import main  # type: ignore[assignment]
        main()
