"""Are the source distribution and the wheel in FOLDER whole, and free of what must not install?

python .ci/check_packages.py FOLDER
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CRATE = "atc_backtest/kernels/rust/"


def sources() -> set[str]:
    """The package's own files under the names they install as: stores/ and pipelines/ through their links."""
    found = set()
    for folder, installed in (
        ("atc_backtest", "atc_backtest"),
        ("stores", "atc_backtest/stores"),
        ("pipelines", "atc_backtest/pipelines"),
    ):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".pyi", ".cu") or path.name == "py.typed":
                found.add(f"{installed}/{path.relative_to(ROOT / folder).as_posix()}")
    return {name for name in found if not name.startswith(CRATE)}


def crate() -> set[str]:
    """What cargo needs."""
    rust = ROOT / CRATE
    return {CRATE + path.relative_to(rust).as_posix() for path in (rust / "src").rglob("*.rs")} | {
        CRATE + "Cargo.toml",
        CRATE + "Cargo.lock",
    }


def wheel_faults(path: Path) -> list[str]:
    names = zipfile.ZipFile(path).namelist()
    inside = {name for name in names if ".dist-info/" not in name}
    extension = {name for name in inside if name.startswith("atc_backtest/kernels/_rust.") and name.endswith(".so")}
    faults = [f"{path.name} lacks {name}" for name in sorted(sources() - inside)]
    faults += [f"{path.name} holds {name}" for name in sorted(inside - sources() - extension)]
    if len(names) != len(set(names)):
        faults.append(f"{path.name} holds a name twice")
    if len(extension) != 1 or "-cp311-abi3-" not in path.name:
        faults.append(f"{path.name} must be cp311-abi3 with one Rust extension; it has {sorted(extension)}")
    for licence in ("LICENSE", "NOTICE"):
        if not any(name.endswith(f".dist-info/licenses/{licence}") for name in names):
            faults.append(f"{path.name} lacks {licence}")
    return faults


def sdist_faults(path: Path) -> list[str]:
    with tarfile.open(path) as archive:
        members = {member.name.partition("/")[2]: member for member in archive.getmembers()}
    wanted = sources() | crate() | {"pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE", "Makefile"}
    wanted |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "examples").rglob("*.parquet")}
    faults = [f"{path.name} lacks {name}" for name in sorted(wanted - members.keys())]
    for name, member in sorted(members.items()):
        if name.split("/")[0] in ("stores", "pipelines") or "/target/" in name or name.endswith((".so", ".pyc")):
            faults.append(f"{path.name} holds {name}")
        if member.issym() or member.islnk():
            faults.append(f"{path.name} holds {name} as a link")
    return faults


def main() -> None:
    folder = Path(sys.argv[1])
    (wheel,) = folder.glob("*.whl")
    (sdist,) = folder.glob("*.tar.gz")
    faults = wheel_faults(wheel) + sdist_faults(sdist)
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults:
        raise SystemExit(1)
    print(f"{wheel.name} and {sdist.name}: {len(sources())} files of the package, as they must be")


if __name__ == "__main__":
    main()
