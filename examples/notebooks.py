"""Run the notebooks of this folder, from top to bottom, each in a kernel of its own.

    python examples/notebooks.py             writes what they print into them
    python examples/notebooks.py --check     only runs them

Cells have no counts and no times in what is written, so that a run that changes nothing changes no file but for
figures that differ from one machine to another.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
LIMIT_S = 120
"""Of one cell."""


def notebooks() -> list[Path]:
    return sorted(HERE.glob("*.ipynb"))


def executed(path: Path) -> Any:
    """The notebook with the outputs of a fresh run; `CellExecutionError` for a cell that raises."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=LIMIT_S, kernel_name="python3", resources={"metadata": {"path": str(HERE)}}
    )
    client.execute()
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.execution_count = None
            for output in cell.outputs:
                output.metadata = {}
                if output.output_type == "execute_result":
                    output.execution_count = None
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
    return notebook


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("names", nargs="*", help="only these, e.g. quickstart")
    given = parser.parse_args()
    for path in notebooks():
        if given.names and path.stem not in given.names:
            continue
        began = time.perf_counter()
        notebook = executed(path)
        if not given.check:
            nbformat.write(notebook, path)
        print(f"{path.name}: {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
