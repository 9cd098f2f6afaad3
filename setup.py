"""What pyproject.toml cannot say: how the packages are called once they are installed.

In a checkout they are `data`, `trainer`, `programs` and `evals`. In site-packages such names would collide with other
people's, so a wheel has them below one name, `causalneg`, with their imports of each other rewritten to it. An editable
installation is the checkout itself.
"""

import re
import sys
from pathlib import Path

from setuptools import find_namespace_packages, setup
from setuptools.command.build_py import build_py

ROOMS = ("data", "trainer", "programs", "evals")
NAME = "causalneg"
IMPORT = re.compile(rf"^(\s*)(from|import) ({'|'.join(ROOMS)})(?=[.\s]|$)", re.MULTILINE)
COMMAND = re.compile(r'^    "([a-z-]+)": \(\w+Config, ', re.MULTILINE)
COMMANDS = [name for room in ROOMS for name in COMMAND.findall(Path(room, "__main__.py").read_text("utf-8"))]
CALL = re.compile(rf"\bjust (?=({'|'.join(COMMANDS)})\b)")


class UnderOneName(build_py):
    """Writes `from causalneg.data.records import Row` for `from data.records import Row`, and `causalneg mine` for
    `just mine`.
    """

    def run(self):  # type: ignore[no-untyped-def]
        """Build everything, and make the one name a package of its own.

        Without that file, folders of the same name are searched, too: a checkout in the folder where a person stands.
        """
        super().run()
        home = Path(self.build_lib, NAME)
        for path in (path for end in ("py", "j2") for path in home.rglob(f"*.{end}")):
            text = path.read_text(encoding="utf-8")
            path.write_text(CALL.sub(f"{NAME} ", IMPORT.sub(rf"\1\2 {NAME}.\3", text)), encoding="utf-8")
        text = '"""Everything of the project: `from causalneg.trainer import train`."""\n'
        (home / "__init__.py").write_text(text, encoding="utf-8")


found = find_namespace_packages(include=[each for room in ROOMS for each in (room, f"{room}.*")])
if "editable_wheel" in sys.argv:
    setup(packages=found, entry_points={"console_scripts": [f"{NAME} = evals.console:main"]})
else:
    setup(
        packages=[f"{NAME}.{package}" for package in found],
        package_dir={f"{NAME}.{room}": room for room in ROOMS},
        cmdclass={"build_py": UnderOneName},
        entry_points={"console_scripts": [f"{NAME} = {NAME}.evals.console:main"]},
    )
