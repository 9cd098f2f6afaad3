"""Writes docs/licences.md: the licence of every package that a release install brings (requirements.lock).

Run by `just lock` in an environment with those packages; tests/test_supply_chain.py checks the result.
"""

import importlib.metadata
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# May be combined with code under Apache-2.0 without changing its licence. MPL-2.0 is file-level: used unchanged.
COMPATIBLE = re.compile(
    r"(MIT(-0|-CMU)?|0?BSD([- ][23][- ]Clause)?( License)?|BSD-[\w-]+|Apache([- ]2\.0|-2\.0)?( WITH LLVM-exception)?"
    r"|ISC|PSF-2\.0|Python-2\.0(\.1)?|MPL-2\.0|Unlicense|Zlib|zlib|CC0-1\.0|HPND|BSL-1\.0|CNRI-Python)"
)
# What older packages write instead of an SPDX name.
_SPOKEN = (
    (r"apache", "Apache-2.0"), (r"\bmit\b", "MIT"), (r"3-clause|new bsd|modified bsd", "BSD-3-Clause"),
    (r"2-clause|simplified bsd", "BSD-2-Clause"), (r"\bbsd\b", "BSD-3-Clause"), (r"mozilla.*2\.0|mpl[- ]?2", "MPL-2.0"),
    (r"\bisc\b", "ISC"), (r"python software foundation|\bpsf", "PSF-2.0"), (r"unlicense|public domain", "Unlicense"),
)  # fmt: skip


def locked() -> dict[str, str]:
    """Package names of requirements.lock with their versions."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", text, re.MULTILINE))


def licence(name: str) -> str | None:
    """The licence that an installed package names, as SPDX where it can be told; None when it is not installed."""
    try:
        found = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    if expression := found.get("License-Expression"):
        return str(expression)
    classifiers = [c.split(" :: ")[-1] for c in found.get_all("Classifier") or [] if c.startswith("License ::")]
    first_line = str(found.get("License") or "").strip().partition("\n")[0]
    for words in (*classifiers, first_line):
        for pattern, spdx in _SPOKEN:
            if re.search(pattern, words.lower()):
                return spdx
    return first_line[:60] or "unknown"


def compatible(expression: str) -> bool:
    """Whether an SPDX expression allows use in a project under Apache-2.0: every part, or one of the alternatives."""
    alternatives = re.split(r"\s+OR\s+", expression)
    return any(
        all(COMPATIBLE.fullmatch(part.strip(" ()")) for part in re.split(r"\s+AND\s+", one)) for one in alternatives
    )


def table() -> str:
    """The text of docs/licences.md."""
    rows, elsewhere = [], []
    for name, version in sorted(locked().items()):
        found = licence(name)
        if found is None:
            elsewhere.append(name)
        else:
            rows.append(f"| {name} | {version} | {found} |")
    lines = [
        "# Licences of what a release install brings",
        "",
        "A release install takes every file by its hash: `pip install --require-hashes -r requirements.lock`, then",
        "`pip install --no-deps .` in this folder.",
        "",
        "Written by `just lock` from the metadata of the packages in `requirements.lock`.",
        "",
        "| package | version | licence |",
        "|---|---|---|",
        *rows,
        "",
        "Only on other platforms, or with torch's CUDA build (whose `nvidia-*` and `cuda-*` packages are under",
        f"NVIDIA's own licence and are fetched by pip, never shipped with this project): {', '.join(elsewhere)}.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    (ROOT / "docs" / "licences.md").write_text(table(), encoding="utf-8")
    wrong = [
        line for line in table().splitlines() if line.startswith("| ") and not compatible(line.split(" | ")[-1][:-2])
    ]
    sys.stdout.write("".join(f"{line}\n" for line in wrong[1:]))
