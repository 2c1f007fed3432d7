"""Run the benchmarks of this folder: `python -m tests.benchmarks [--short] [NAME …]`.

Prints one JSON line per module, `{"benchmark": name, "seconds": …, "result": {…}}`. Ends with 1
when one of them failed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys
import time
import traceback
from pathlib import Path


def names() -> list[str]:
    """The modules of this folder that measure something."""
    found = pkgutil.iter_modules([str(Path(__file__).parent)])
    return sorted(item.name for item in found if not item.name.startswith(("_", "test_")))


def main() -> int:
    """Run the chosen benchmarks; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("--short", action="store_true", help="fewer and smaller runs")
    parser.add_argument("names", nargs="*", metavar="NAME")
    options = parser.parse_args()
    known = names()
    unknown = sorted(set(options.names) - set(known))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are: {', '.join(known)}")
    failed = 0
    for name in options.names or known:
        module = importlib.import_module(f"tests.benchmarks.{name}")
        if not hasattr(module, "main"):
            continue
        begin = time.perf_counter()
        line: dict[str, object] = {"benchmark": name}
        try:
            line["result"] = module.main(options.short)
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            line["error"] = f"{type(error).__name__}: {error}"
            failed += 1
        line["seconds"] = round(time.perf_counter() - begin, 1)
        print(json.dumps(line), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
