"""Stands in for the kernel library: its entry points run in a program of another machine, under emulation."""

import struct
import subprocess

import numpy as np

from mindformers_codellama.kernels import library
from mindformers_codellama.kernels.library_file import LibraryFile
from mindformers_codellama.kernels.self_test import finds_fault

VARIABLE = "CODELLAMA_EMULATED_KERNELS"
"""Emulator, program (programs/serve_kernels.cpp) and library, by spaces."""


class EmulatedLibrary:
    """Has of the library what the tests use."""

    def __init__(self, words):
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.level, self.threads = "", 0

    def codellama_use_level(self, name):
        code, _ = self.ask(f":level {name.decode()}", [])
        if code == 0:
            self.level = name.decode()
        return code

    def codellama_set_threads(self, count):
        self.threads = count
        return self.ask(f":threads {count}", [])[0]

    def codellama_level(self):
        return self.level.encode()

    def codellama_threads(self):
        return self.threads

    def call(self, name, inputs, outputs):
        """As library.call; inputs that the entry point writes are changed too."""
        arrays = [*inputs, *outputs]
        code, text = self.ask(name, arrays)
        if code == 2:
            raise AttributeError(f"undefined symbol: {name}")
        if code:
            raise ValueError(text)
        for array in arrays:
            content = self.read(array.nbytes)
            if array.flags.writeable:
                array.reshape(-1).view(np.uint8)[...] = np.frombuffer(content, np.uint8)

    def ask(self, name, arrays):
        """Send a request; code and message of the answer."""
        words = [_text(name), struct.pack("<i", len(arrays))]
        for array in arrays:
            words += [_text(str(array.dtype)), struct.pack(f"<i{array.ndim}qq", array.ndim, *array.shape, array.nbytes), array.tobytes()]
        self.process.stdin.write(b"".join(words))
        self.process.stdin.flush()
        code, length = struct.unpack("<ii", self.read(8))
        return code, self.read(length).decode()

    def read(self, size):
        content = self.process.stdout.read(size)
        assert len(content) == size, f"the emulated program ended with {self.process.wait(10)}"
        return content


def use_emulated(words):
    """From now on `library` is the emulated one, at the levels that compute known products right."""
    emulated = EmulatedLibrary(words)
    levels = []
    for level in ("neon", "portable"):
        assert emulated.codellama_use_level(level.encode()) == 0, level
        assert not finds_fault(emulated.call), finds_fault(emulated.call)
        levels.append(level)
    emulated.codellama_set_threads(2)
    emulated.codellama_use_level(levels[0].encode())
    loaded = library._Loaded(emulated, LibraryFile(library.library_path(), tuple(levels), "a cross compiler"), tuple(levels))
    library._load = lambda: loaded
    library._call = lambda _library, name, inputs, outputs: emulated.call(name, inputs, outputs)


def _text(words):
    return struct.pack("<i", len(words.encode())) + words.encode()
