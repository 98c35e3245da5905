"""``python -m tag_lightning {fit,validate,test,predict,stages} --config ...``, and the list ``arms``."""

import sys

if __name__ == "__main__":
    # Lightning takes seconds to load.
    if sys.argv[1:2] == ["arms"]:
        from tag_lightning.guidance_list import main
    elif sys.argv[1:2] == ["stages"]:
        from tag_lightning.stages import main  # type: ignore[assignment]
    else:
        from tag_lightning.cli import main  # type: ignore[assignment]
    main()
