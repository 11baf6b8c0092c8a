"""``python -m multigpu``: the `multigpu` command."""

from multigpu.multigpu_core.cli.app import main

if __name__ == "__main__":
    main()
