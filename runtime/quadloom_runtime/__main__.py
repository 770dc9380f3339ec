"""``python -m quadloom_runtime`` is the `quadloom` command."""

import sys

from quadloom_runtime.cli import main

sys.exit(main())
