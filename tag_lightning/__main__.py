"""``python -m tag_lightning {fit,validate,test,predict,stages,arms}``."""

import sys

_HELP = """\
usage: python -m tag_lightning {fit,validate,test,predict,stages,arms} ...

Train and evaluate Temporal Alignment Guidance. A first run:
  python -m tag_lightning fit --config digits/time_predictor

  fit        train a network; a run with sampling compares the arms at its validations
  validate   compare the arms of a trained network on the validation data
  test       the same on the test data
  predict    draw and write the samples of one arm
  stages     fit all networks of an experiment in turn, as for images or molecules of your own
  arms       list all guidance, with cost and parameters

fit --help lists every option; stages --help has those of stages."""

if __name__ == "__main__":
    # Lightning takes seconds to load.
    if sys.argv[1:] in ([], ["-h"], ["--help"]):
        print(_HELP)
        sys.exit(0 if sys.argv[1:] else 2)
    if sys.argv[1] == "arms":
        from tag_lightning.guidance_list import main
    elif sys.argv[1] == "stages":
        from tag_lightning.stages import main  # type: ignore[assignment]
    else:
        from tag_lightning.cli import main  # type: ignore[assignment]
    main()
