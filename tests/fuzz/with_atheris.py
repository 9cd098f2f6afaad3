"""`python -m tests.fuzz.with_atheris TARGET CORPUS -max_total_time=60`: one target, driven by coverage."""

import sys

import atheris

with atheris.instrument_imports(include=["data", "programs"]):
    from tests.fuzz.targets import feed


def main() -> None:
    """Fuzz until the time is over or something other than InputError comes out."""
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, lambda raw: feed(name, raw))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
