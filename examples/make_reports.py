"""Write the two sample reports of this repository again: one aligned, one diverged.

    python examples/make_reports.py            (into reports/; or name another folder)

They are what ``alignkit compare`` writes for the two models in model_for_cli.py, one by each exporter.
"""

from __future__ import annotations

import sys
from pathlib import Path

from model_for_cli import build, build_broken

import alignkit

SAMPLES = {"aligned": (build, "torchscript"), "diverged": (build_broken, "dynamo")}


def main(folder: Path) -> int:
    as_expected = True
    for name, (factory, exporter) in SAMPLES.items():
        model, args = factory()
        report = alignkit.compare(model, args, exporter=exporter)
        saved = report.save(folder / name, force=True)
        print(f"{saved / 'index.html'}: {report!r}")
        as_expected &= report.aligned == (name == "aligned")
    return 0 if as_expected else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "reports")))
