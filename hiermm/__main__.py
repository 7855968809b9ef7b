"""`python -m hiermm` is the command line."""

import sys

from hiermm.cli import main

sys.exit(main())
