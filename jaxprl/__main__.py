"""`python -m jaxprl`."""

import sys

from jaxprl.arguments import run_main
from jaxprl.cli import main

sys.exit(run_main(main))
