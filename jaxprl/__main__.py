"""`python -m jaxprl`."""

import sys

from jaxprl.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
