"""Extension modules only; everything else is in pyproject.toml.

Each Cython module is compiled once per instruction set: `base` runs on any machine of the architecture,
`v3` needs AVX2 and FMA, `v4` AVX-512. `hiermm._ext` picks the best one at import.
"""

import os
import platform
import sys
import tempfile
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError

SOURCE = Path("hiermm") / "_ext"
# -g0: Python may have been built with -g, which makes the modules five times as large. -Wno-unused-function: modules
# share headers, of whose functions none needs all.
FLAGS = ["-O3", "-g0", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fopenmp-simd"]
FLAGS += ["-Wno-unused-function"]
OPENMP = ["-fopenmp"]  # where the compiler knows it; without, kernels have no threads of their own
VARIANTS = {"base": []}
if platform.machine().lower() in {"x86_64", "amd64"} and sys.platform != "win32":
    VARIANTS["v3"] = ["-march=x86-64-v3"]
    VARIANTS["v4"] = ["-march=x86-64-v4", "-mprefer-vector-width=512"]
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "embedsignature": True,
}


def extension(name, path, flags):
    return Extension(
        name,
        [path.as_posix()],
        include_dirs=[SOURCE.as_posix()],
        extra_compile_args=FLAGS + flags,
        define_macros=[("CYTHON_WITHOUT_ASSERTIONS", "1")],
        depends=[header.as_posix() for header in SOURCE.glob("*.h")],
    )


def extensions():
    """One set of modules a variant, and `_cpu`, which says what the machine can run."""
    kernels = sorted(path for path in SOURCE.glob("*.pyx") if path.stem != "_cpu")
    modules = cythonize(
        extension("hiermm._ext._cpu", SOURCE / "_cpu.pyx", []),
        build_dir="build/cython",
        compiler_directives=DIRECTIVES,
    )
    for variant, flags in VARIANTS.items():
        modules += cythonize(
            [extension(f"hiermm._ext.{variant}.{path.stem}", path, flags) for path in kernels],
            build_dir=f"build/cython/{variant}",
            compiler_directives=DIRECTIVES,
        )
    return modules


class ParallelBuild(build_ext):
    """Compile on all cores unless told otherwise."""

    def build_extensions(self):
        if self.knows(OPENMP):
            for module in self.extensions:
                if module.name.endswith(".dense"):
                    module.extra_compile_args += OPENMP
                    module.extra_link_args += OPENMP
        super().build_extensions()

    def knows(self, flags):
        """Whether a program can be compiled and linked with these flags."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "main.c"
            source.write_text("#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n")
            try:
                objects = self.compiler.compile([str(source)], output_dir=folder, extra_postargs=flags)
                self.compiler.link_executable(objects, str(Path(folder) / "main"), extra_postargs=flags)
            except (CompileError, LinkError):
                return False
        return True

    def finalize_options(self):
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()
        if self.inplace:
            for variant in VARIANTS:
                (SOURCE / variant).mkdir(exist_ok=True)


setup(ext_modules=extensions(), cmdclass={"build_ext": ParallelBuild})
