"""The two compilers behind `build.py`: where they come from and how they are called.

Slang and NVRTC are shared libraries inside two public Python wheels. The wheels are fetched by name, version and hash
with pip, the few libraries that are needed are taken out of them, and both are called through ctypes: nothing of the
wheels is imported, nothing is installed into the interpreter that runs this. Neither needs a GPU, a driver or a CUDA
toolkit.
"""

import ctypes
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path


class ToolchainError(Exception):
    """A compiler cannot be had or refused its input; the text says what to do."""


class Wheel:
    """One wheel: the package, its version, the hash of its file, and the files wanted out of it."""

    def __init__(self, package, version, sha256, members):
        self.package, self.version, self.sha256, self.members = package, version, sha256, members

    def requirement(self):
        return f"{self.package}=={self.version} --hash=sha256:{self.sha256}"


SLANG = Wheel(
    "slangpy",
    "0.43.1",
    "965dbbd1d907c90e17027945780146a67c66baf766f3d0b8af3f52ea2c4a8eb9",
    ["libslang-compiler.so.0.2026.12", "libslang-glslang-2026.12.so"],
)
NVRTC = Wheel(
    "nvidia-cuda-nvrtc-cu12",
    "12.0.140",
    "8e94e991d85c422de4da87bdc7472fdc1364367bd4aace7000b559cd33122071",
    ["libnvrtc.so.12", "libnvrtc-builtins.so.12.0"],
)
PTXAS = Wheel(
    "nvidia-cuda-nvcc-cu12",
    "12.9.86",
    "5d6a0d32fdc7ea39917c20065614ae93add6f577d840233237ff08e9a38f58f0",
    ["ptxas"],
)

# The wheels are asked for as for this platform, whatever interpreter runs the script: the Slang wheel comes per Python
# version, and another one would be another file with another hash.
PLATFORM = [
    *("--python-version", "3.11", "--implementation", "cp", "--abi", "cp311", "--abi", "none"),
    *("--platform", "manylinux_2_34_x86_64", "--platform", "manylinux_2_17_x86_64"),
    *("--platform", "manylinux2010_x86_64", "--platform", "manylinux1_x86_64"),
]


def directory():
    """The private folder of the toolchain; `HMMAP_SHADER_TOOLCHAIN` moves it (several checkouts can share one)."""
    chosen = os.environ.get("HMMAP_SHADER_TOOLCHAIN")
    return Path(chosen) if chosen else Path(__file__).resolve().parent.parent / ".dev" / "shader-toolchain"


def install(wheels):
    """Fetches what is missing. The folder of a wheel carries its hash, so that another version is another folder."""
    for wheel in wheels:
        if not all((home(wheel) / name).is_file() for name in wheel.members):
            fetch(wheel)


def home(wheel):
    return directory() / f"{wheel.package}-{wheel.version}-{wheel.sha256[:12]}"


def fetch(wheel):
    print(f"fetching {wheel.package} {wheel.version}", file=sys.stderr)
    directory().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory()) as scratch:
        scratch = Path(scratch)
        requirements = scratch / "requirements.txt"
        requirements.write_text(wheel.requirement() + "\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary", ":all:", *PLATFORM, "--require-hashes"]
        command += ["-r", str(requirements), "-d", str(scratch / "wheel")]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise ToolchainError(
                f"cannot fetch {wheel.package} {wheel.version} with `{sys.executable} -m pip`:\n"
                f"{done.stderr.strip()}\n"
                "Rebuilding kernels needs pip (Debian: python3-pip) and a package index, 115 MB once. "
                "Building and testing the crates does not: their compiled kernels are committed."
            )
        unpack(wheel, next((scratch / "wheel").glob("*.whl")), scratch / "files")
        target = home(wheel)
        if not target.exists():
            (scratch / "files").rename(target)


def unpack(wheel, archive, target):
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != wheel.sha256:
        raise ToolchainError(f"{archive.name} has sha256 {found}, wanted {wheel.sha256}")
    target.mkdir()
    with zipfile.ZipFile(archive) as pack:
        for name in pack.namelist():
            leaf = name.rsplit("/", 1)[-1]
            if leaf in wheel.members:
                (target / leaf).write_bytes(pack.read(name))
                (target / leaf).chmod(0o755)
    missing = [name for name in wheel.members if not (target / name).is_file()]
    if missing:
        raise ToolchainError(f"{archive.name} lacks {', '.join(missing)}")


def library(path, signatures):
    """Opens a library and gives its functions their C signatures: name -> (result, arguments)."""
    try:
        loaded = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    except OSError as cause:
        raise ToolchainError(f"cannot load {path}: {cause} (the compilers need x86-64 Linux with glibc 2.34)") from None
    for name, (result, arguments) in signatures.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


class Slang:
    """The Slang compiler by its C interface; one request per compilation."""

    def __init__(self):
        pointer, text = ctypes.c_void_p, ctypes.c_char_p
        self.lib = library(
            home(SLANG) / SLANG.members[0],
            {
                "spGetBuildTagString": (text, []),
                "spCreateSession": (pointer, [text]),
                "spCreateCompileRequest": (pointer, [pointer]),
                "spDestroyCompileRequest": (None, [pointer]),
                "spProcessCommandLineArguments": (ctypes.c_int, [pointer, ctypes.POINTER(text), ctypes.c_int]),
                "spCompile": (ctypes.c_int, [pointer]),
                "spGetDiagnosticOutput": (text, [pointer]),
                "spGetTargetCodeBlob": (ctypes.c_int, [pointer, ctypes.c_int, ctypes.POINTER(pointer)]),
            },
        )
        self.session = self.lib.spCreateSession(None)
        self.version = self.lib.spGetBuildTagString().decode()

    def compile(self, arguments):
        """The code that `slangc ARGUMENTS` would write. Any diagnostic, a warning too, is an error."""
        request = self.lib.spCreateCompileRequest(self.session)
        encoded = [argument.encode() for argument in arguments]
        status = self.lib.spProcessCommandLineArguments(
            request, (ctypes.c_char_p * len(encoded))(*encoded), len(encoded)
        )
        if status >= 0:
            status = self.lib.spCompile(request)
        said = (self.lib.spGetDiagnosticOutput(request) or b"").decode().strip()
        blob = ctypes.c_void_p()
        if status >= 0:
            status = self.lib.spGetTargetCodeBlob(request, 0, ctypes.byref(blob))
        if status < 0 or said:
            raise ToolchainError(f"slangc {' '.join(arguments)}\n{said or f'failed with {status:#x}'}")
        code = blob_bytes(blob)
        self.lib.spDestroyCompileRequest(request)
        return code


def blob_bytes(blob):
    """Copies an `ISlangBlob`: after the three methods of IUnknown its table has getBufferPointer and getBufferSize."""
    table = ctypes.cast(ctypes.cast(blob, ctypes.POINTER(ctypes.c_void_p))[0], ctypes.POINTER(ctypes.c_void_p))
    address = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(table[3])(blob)
    size = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p)(table[4])(blob)
    return ctypes.string_at(address, size)


OUTPUT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)


class OptimizeRequest(ctypes.Structure):
    """The request of `glslang_compile_1_1`; the library reads its size to tell which version of it this is."""

    _fields_ = [
        ("size_bytes", ctypes.c_size_t),
        ("source_path", ctypes.c_char_p),
        ("input_begin", ctypes.c_void_p),
        ("input_end", ctypes.c_void_p),
        ("diagnostic", OUTPUT),
        ("diagnostic_data", ctypes.c_void_p),
        ("output", OUTPUT),
        ("output_data", ctypes.c_void_p),
        ("stage", ctypes.c_int),
        ("action", ctypes.c_uint),
        ("optimization_level", ctypes.c_uint),
        ("debug_info", ctypes.c_uint),
        ("target_name", ctypes.c_char_p),
        ("spirv_version", ctypes.c_int * 3),
    ]


class SpirvTools:
    """The optimiser and the validator that Slang carries."""

    ACTION_OPTIMIZE = 2
    LEVEL_HIGH = 2

    def __init__(self):
        self.lib = library(
            home(SLANG) / SLANG.members[1],
            {
                "glslang_compile_1_1": (ctypes.c_int, [ctypes.POINTER(OptimizeRequest)]),
                "glslang_validateSPIRV": (ctypes.c_bool, [ctypes.c_char_p, ctypes.c_int]),
            },
        )

    def optimize(self, code):
        written, said = bytearray(), bytearray()
        buffer = ctypes.create_string_buffer(code, len(code))
        begin = ctypes.addressof(buffer)
        request = OptimizeRequest(
            size_bytes=ctypes.sizeof(OptimizeRequest),
            input_begin=begin,
            input_end=begin + len(code),
            diagnostic=OUTPUT(lambda data, size, _: said.extend(ctypes.string_at(data, size))),
            output=OUTPUT(lambda data, size, _: written.extend(ctypes.string_at(data, size))),
            action=self.ACTION_OPTIMIZE,
            optimization_level=self.LEVEL_HIGH,
            spirv_version=(ctypes.c_int * 3)(1, 5, 0),
        )
        status = self.lib.glslang_compile_1_1(ctypes.byref(request))
        if status != 0 or said or not written:
            raise ToolchainError(f"spirv-opt ended with {status}: {said.decode(errors='replace')}")
        return bytes(written)

    def validate(self, code, name):
        if not self.lib.glslang_validateSPIRV(code, len(code) // 4):
            raise ToolchainError(f"{name}: the SPIR-V validator refuses it (its words are above)")


class Nvrtc:
    """The CUDA run-time compiler: CUDA C++ text in, PTX text out."""

    def __init__(self):
        pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_size_t)
        # NVRTC opens its built-ins by bare name; an open library with that name answers.
        library(home(NVRTC) / NVRTC.members[1], {})
        created = [ctypes.POINTER(pointer), text, text, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
        self.lib = library(
            home(NVRTC) / NVRTC.members[0],
            {
                "nvrtcVersion": (ctypes.c_int, [ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int)]),
                "nvrtcCreateProgram": (ctypes.c_int, created),
                "nvrtcCompileProgram": (ctypes.c_int, [pointer, ctypes.c_int, ctypes.POINTER(text)]),
                "nvrtcGetProgramLogSize": (ctypes.c_int, [pointer, size]),
                "nvrtcGetProgramLog": (ctypes.c_int, [pointer, text]),
                "nvrtcGetPTXSize": (ctypes.c_int, [pointer, size]),
                "nvrtcGetPTX": (ctypes.c_int, [pointer, text]),
            },
        )
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.check(self.lib.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)), "nvrtcVersion")
        self.version = f"{major.value}.{minor.value}"

    def check(self, status, call):
        if status != 0:
            raise ToolchainError(f"{call} failed with {status}")

    def compile(self, source, name, flags):
        program = ctypes.c_void_p()
        self.check(
            self.lib.nvrtcCreateProgram(ctypes.byref(program), source, name.encode(), 0, None, None),
            "nvrtcCreateProgram",
        )
        encoded = [flag.encode() for flag in flags]
        status = self.lib.nvrtcCompileProgram(program, len(encoded), (ctypes.c_char_p * len(encoded))(*encoded))
        if status != 0:
            log = self.text(program, "ProgramLog")
            raise ToolchainError(f"NVRTC refuses {name} ({status}):\n{log}")
        return self.text(program, "PTX")

    def text(self, program, what):
        length = ctypes.c_size_t()
        self.check(getattr(self.lib, f"nvrtcGet{what}Size")(program, ctypes.byref(length)), what)
        buffer = ctypes.create_string_buffer(length.value)
        self.check(getattr(self.lib, f"nvrtcGet{what}")(program, buffer), what)
        return buffer.value.decode()
