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


class UnderOneName(build_py):
    """Rewrites `from data.records import Row` to `from causalneg.data.records import Row` in what is built."""

    def run(self):  # type: ignore[no-untyped-def]
        """Build everything, and make the one name a package of its own.

        Without that file, folders of the same name are searched, too: a checkout in the folder where a person stands.
        """
        super().run()
        path = Path(self.build_lib, NAME, "__init__.py")
        path.write_text('"""Everything of the project: `from causalneg.trainer import train`."""\n', encoding="utf-8")

    def build_module(self, module, module_file, package):  # type: ignore[no-untyped-def]
        """Build one module, as setuptools does, and rewrite its imports."""
        written, copied = super().build_module(module, module_file, package)
        path = Path(written)
        path.write_text(IMPORT.sub(rf"\1\2 {NAME}.\3", path.read_text(encoding="utf-8")), encoding="utf-8")
        return written, copied


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
