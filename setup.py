"""Build: `configs/` is installed as `iom/configs`; all else stands in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """The package with the configurations; an editable installation reads those of the sources."""

    def run(self) -> None:
        """Copy the modules, then the configurations."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "iom", "configs")
            shutil.copytree("configs", target, dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithConfigs})
