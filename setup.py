"""What setuptools cannot be told in pyproject.toml: the files beside the package that an installed one needs, too."""

import json
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHARED = (
    "params/*.yaml",
    "params/expected/*.json",
    "notebooks/*.ipynb",
    "profiles/*/*",
    "docs/*.md",
    "Snakefile",
    "*.lock",
)


class BuildPy(build_py):
    """Puts them into foalkit/shared/ of a wheel (`foalkit.SHARED`), and into a source distribution where they lie."""

    def get_source_files(self):
        return super().get_source_files() + [str(file) for glob in SHARED for file in sorted(Path().glob(glob))]

    def run(self):
        if not self.editable_mode:  # else the checkout itself is used
            shutil.rmtree(Path(self.build_lib, "foalkit"), ignore_errors=True)  # what an earlier build left there
        super().run()
        if self.editable_mode:
            return
        for glob in SHARED:
            for file in sorted(Path().glob(glob)):
                copy = Path(self.build_lib, "foalkit", "shared", file)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
                if file.suffix == ".ipynb":  # what a run has left in it is nobody else's
                    notebook = json.loads(file.read_text(encoding="utf-8"))
                    for cell in notebook["cells"]:
                        if cell["cell_type"] == "code":
                            cell |= {"outputs": [], "execution_count": None}
                    copy.write_text(json.dumps(notebook, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


setup(cmdclass={"build_py": BuildPy})
