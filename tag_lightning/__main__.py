"""``python -m tag_lightning {fit,validate,test,predict} --config configs/...``."""

from tag_lightning.cli import main

if __name__ == "__main__":
    main()
