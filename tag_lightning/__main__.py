"""``python -m tag_lightning {fit,validate,test,predict} --config digits/time_predictor``."""

from tag_lightning.cli import main

if __name__ == "__main__":
    main()
