"""The main job: `python experiments/run.py` with any options is the command `jaxprl run` with the same options."""

import sys

from jaxprl.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
