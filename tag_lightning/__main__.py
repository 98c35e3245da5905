"""``python -m tag_lightning {fit,validate,test,predict} --config digits/time_predictor``, and the list ``arms``."""

import sys

if __name__ == "__main__":
    if sys.argv[1:2] == ["arms"]:  # without the seconds that Lightning takes to load
        from tag_lightning.guidance_list import main
    else:
        from tag_lightning.cli import main  # type: ignore[assignment]
    main()
