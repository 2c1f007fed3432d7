"""`python -m swarmtui`."""

from __future__ import annotations

from swarmtui.cli import main

if __name__ == "__main__":
    main()
