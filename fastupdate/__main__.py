"""`python -m fastupdate`: the same as the command `fastupdate`."""

import sys

from fastupdate.cli import main

sys.exit(main())
