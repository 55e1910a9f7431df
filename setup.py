"""Package metadata of mindformers_codellama."""

import os
import runpy
import shutil
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).parent


class BuildKernels(build_ext):
    """Compiles the C++ kernels; without a compiler the package is installed without them and uses plain operators."""

    def run(self) -> None:
        self.into_checkout = bool(self.inplace or self.editable_mode)  # setuptools forgets `inplace` while it builds
        super().run()

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", "/") + ".so"

    def build_extension(self, ext: Extension) -> None:
        kernels = runpy.run_path(str(HERE / "mindformers_codellama/kernels/build.py"))
        # a checkout keeps its objects in build/kernels, so that installing it again compiles what changed only
        folder = HERE / "build/kernels" if self.into_checkout else Path(self.build_temp).absolute() / "kernels"
        output = Path(self.get_ext_fullpath(ext.name)).absolute()
        try:
            kernels["build"](output, folder=folder)
        except kernels["BuildError"] as error:
            for left in (output, output.with_suffix(".json")):  # of an earlier build in the same folder
                left.unlink(missing_ok=True)
            print(f"warning: the C++ kernels were not built, plain MindSpore operators will be used: {error}", file=sys.stderr)

    def copy_extensions_to_source(self) -> None:
        """Of an installation in place: the library and its description, each by renaming, since a process may have it open."""
        for ext in self.extensions:
            built = HERE / self.build_lib / self.get_ext_filename(ext.name)
            for file in (built, built.with_suffix(".json")):
                if file.is_file():
                    target = HERE / self.get_ext_filename(ext.name)
                    temporary = target.with_name(f".{file.name}.{os.getpid()}")
                    shutil.copyfile(file, temporary)
                    temporary.replace(target.with_name(file.name))


CORE = [
    "mindspore>=2.9,<2.11",
    "numpy>=1.25,<2",
    "sentencepiece>=0.2",
    "safetensors>=0.4.3",
    "ml_dtypes>=0.4,<0.6",
    "pyyaml>=6",
    "tqdm>=4.66",
    "tensorboardX>=2.6",
    "matplotlib>=3.8",
    "shtab>=1.7",
]
TEMPLATES = ["fschat>=0.2.36"]
PEER = ["pytest>=8", "pytest-timeout>=2.3", "hypothesis>=6"]
TEST = [*TEMPLATES, *PEER, "pytest-xdist>=3.6", "torch==2.13.0", "transformers>=4.57,<6", "peft>=0.17"]
LINT = ["ruff>=0.9", "mypy>=1.14", "import-linter>=2.1", "types-PyYAML", "types-tqdm"]
MINDFORMERS = ["mindspore>=2.9,<2.10", "mindformers==1.9.*"]

setup(
    name="mindformers_codellama",
    version="0.1.0",
    description="Code Llama on MindSpore: pretrain, finetune, generate; one laptop CPU to an Ascend cluster",
    long_description=(HERE / "README.md").read_text(encoding="utf-8") if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["mindformers_codellama", "mindformers_codellama.*"]),
    package_data={"mindformers_codellama": ["py.typed", "**/assets/**/*", "**/assets/*"]},
    ext_modules=[Extension("mindformers_codellama.kernels.libcodellama_kernels", sources=[], optional=True)],
    cmdclass={"build_ext": BuildKernels},
    install_requires=CORE,
    extras_require={"templates": TEMPLATES, "test": TEST, "lint": LINT, "dev": TEST + LINT, "mindformers": MINDFORMERS, "peer": PEER},
    entry_points={"console_scripts": ["codellama=mindformers_codellama.cli.main:main"]},
)
