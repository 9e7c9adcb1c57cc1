#!/usr/bin/env python3
"""Rebuilds the compiled kernels of this directory, byte for byte.

    shaders/build.py                 compiles every kernel into out/ and writes manifest.json
    shaders/build.py --check         compiles into memory and compares with what is committed
    shaders/build.py --ptxas         the same, and assembles every .ptx for several GPU generations
    shaders/build.py --install-only  fetches the compilers and stops

Each `*.slang` is one family of kernels. Each of its entry points becomes out/ENTRY.spv, the file as a whole becomes
out/FILE.ptx. README.md has the conventions that a kernel keeps; this script checks those that can be seen in a module.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True  # no __pycache__ among the kernels

import build_spirv
import build_toolchain
from build_spirv import SpirvError
from build_toolchain import NVRTC, PTXAS, SLANG, ToolchainError

HERE = Path(__file__).resolve().parent
OUT = HERE / "out"
MANIFEST = HERE / "manifest.json"
README = HERE / "README.md"
TABLE = re.compile(r"(?<=<!-- layouts: written by build.py -->\n).*?(?=<!-- end of layouts -->)", re.S)

SLANG_SPIRV = (
    "-target spirv -profile spirv_1_5 -stage compute -fvk-use-entrypoint-name -fvk-use-c-layout -O0 "
    "-warnings-as-errors all"
).split()
SLANG_CUDA = "-target cuda -line-directive-mode none -warnings-as-errors all".split()
NVRTC_FLAGS = ["--gpu-architecture=compute_70", "--fmad=false", "-w"]
PTXAS_TARGETS = ["sm_70", "sm_75", "sm_80", "sm_90", "sm_100", "sm_120"]

ENTRY = re.compile(r'\[shader\("compute"\)\]\s*(?:\[[^\]]*\]\s*)*void\s+(\w+)\([^)]*uniform\s+(\w+)(?:<\w+>)?\s+args\)')
STRUCT = re.compile(r"^struct (\w+)(?:<\w+>)?\n\{\n(.*?)^\};", re.M | re.S)
ARRAY = re.compile(r"^\s*(Src<\w+>|\w+\s*\*)\s*(\w+);[ ]*(?://\s*(\w+))?", re.M)
INCLUDE = re.compile(r'^\s*#include\s+"([^"]+)"', re.M)
PTX_GLOBAL = re.compile(r"^\.global [^=;\n]*?(\w+)(?:\[\d*\])?(?: = [^;\n]*)?;\n", re.M)
MAX_ARGUMENT_BYTES = 128
SIZES = {"u32": 4, "f32": 4, "u64": 8}


class ConventionError(Exception):
    """A kernel's source breaks a rule of README.md."""


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def read_family(path):
    """The entry points of a source: {entry: (argument struct, {array: access})}."""
    text = path.read_text()
    structs = dict(STRUCT.findall(text))
    family = {}
    for entry, struct in ENTRY.findall(text):
        accesses = {}
        for kind, name, access in ARRAY.findall(structs[struct]):
            allowed = ["Read"] if kind.startswith("Src") else ["Update", "Write"]
            if access not in allowed:
                raise ConventionError(f"{path.name}: {struct}.{name} needs a comment // {' or // '.join(allowed)}")
            accesses[name] = access
        family[entry] = accesses
    if len(family) != text.count('[shader("compute")]'):
        raise ConventionError(f"{path.name}: an entry point is not written as README.md says")
    return family


def layout(module, accesses, where):
    """The argument struct of a module as the manifest lists it, after checking the order that README.md fixes."""
    members = module.arguments()
    arrays, at, listed = [], 0, []
    for index, (name, kind, offset) in enumerate(members):
        size = 8 if kind.startswith("*") else SIZES[kind]
        if offset != at:
            raise ConventionError(f"{where}: {name} is at {offset}, wanted {at}: the struct would hold padding")
        at += size
        item = {"name": name, "type": kind, "offset": offset}
        if kind.startswith("*"):
            if index != 2 * len(arrays) or members[index + 1][:2] != (f"{name}_len", "u64"):
                raise ConventionError(f"{where}: array {name} must come before all scalars, followed by {name}_len")
            arrays.append(name)
            item["access"] = accesses[name]
        listed.append(item)
    if arrays != list(accesses):
        raise ConventionError(f"{where}: arrays {arrays} in the module, {list(accesses)} in the source")
    dims = {(256, 1, 1): ["n", "threads"], (16, 16, 1): ["nx", "ny"]}.get(tuple(module.workgroup))
    after = [(name, kind) for name, kind, _ in members[2 * len(arrays) :]]
    if dims is None or after[:2] != [(name, "u64") for name in dims]:
        raise ConventionError(f"{where}: workgroup {module.workgroup} with scalars {after}")
    size_bytes = (at + 7) // 8 * 8
    if size_bytes > MAX_ARGUMENT_BYTES:
        raise ConventionError(f"{where}: {size_bytes} bytes of arguments, at most {MAX_ARGUMENT_BYTES} are portable")
    return listed, size_bytes


def drop_leftovers(ptx):
    """Takes out the constants that the compilers' own headers leave behind: those that nothing refers to."""
    return PTX_GLOBAL.sub(lambda found: found[0] if ptx.count(found[1]) > 1 else "", ptx)


class Build:
    """One build of everything, in memory: file name in out/ -> bytes, and the manifest."""

    def __init__(self):
        self.slang, self.tools, self.nvrtc = build_toolchain.Slang(), build_toolchain.SpirvTools(), build_toolchain.Nvrtc()
        self.outputs, self.kernels, self.sources = {}, {}, {}
        for path in sorted(HERE.glob("*.slang")):
            self.family(path)
        # What these do to the code is as much a source as the kernels are.
        for path in HERE.glob("build*.py"):
            self.source(path)

    def family(self, path):
        self.source(path)
        ptx = self.ptx(path)
        self.outputs[f"{path.stem}.ptx"] = ptx.encode()
        for entry, accesses in read_family(path).items():
            where = f"{path.name}:{entry}"
            if entry in self.kernels:
                raise ConventionError(f"{where}: another family has an entry point of this name")
            code = self.spirv(path, entry)
            module = build_spirv.Module(code)
            if module.entries != [entry]:
                raise ConventionError(f"{where}: the module's entry points are {module.entries}")
            arguments, size_bytes = layout(module, accesses, where)
            if f".param .align 8 .b8 {entry}_param_0[{size_bytes}]" not in ptx:
                raise ConventionError(f"{where}: CUDA sees another argument struct than the {size_bytes} bytes of Vulkan")
            self.outputs[f"{entry}.spv"] = code
            self.kernels[entry] = {
                "source": path.name,
                "spirv": f"out/{entry}.spv",
                "ptx": f"out/{path.stem}.ptx",
                "workgroup": module.workgroup,
                "capabilities": sorted(module.capabilities),
                "args_bytes": size_bytes,
                "args": arguments,
            }

    def source(self, path):
        """Notes a source and what it includes."""
        if path.name not in self.sources:
            self.sources[path.name] = sha256(path.read_bytes())
            for name in INCLUDE.findall(path.read_text()) if path.suffix != ".py" else []:
                self.source(path.parent / name)

    def spirv(self, path, entry):
        raw = self.slang.compile([str(path), *SLANG_SPIRV, "-entry", entry])
        code = self.tools.optimize(build_spirv.prepare(raw))
        build_spirv.check_exact(code)
        self.tools.validate(code, entry)
        return code

    def ptx(self, path):
        cuda = self.slang.compile([str(path), *SLANG_CUDA])
        text = drop_leftovers(self.nvrtc.compile(cuda, f"{path.stem}.cu", NVRTC_FLAGS))
        if "fma.rn" in text:
            raise SpirvError(f"{path.name}: a fused multiply-add appeared in the PTX")
        return text

    def manifest(self):
        compilers = {
            "slang": {"reports": self.slang.version, "wheel": SLANG.package, "wheel_version": SLANG.version},
            "nvrtc": {"reports": self.nvrtc.version, "wheel": NVRTC.package, "wheel_version": NVRTC.version},
        }
        compilers["slang"]["wheel_sha256"], compilers["nvrtc"]["wheel_sha256"] = SLANG.sha256, NVRTC.sha256
        flags = {"slang_spirv": SLANG_SPIRV, "slang_cuda": SLANG_CUDA, "nvrtc": NVRTC_FLAGS}
        flags["spirv_opt_level"] = self.tools.LEVEL_HIGH
        document = {
            "format": 1,
            "compilers": compilers,
            "flags": flags,
            "sources": dict(sorted(self.sources.items())),
            "outputs": {f"out/{name}": sha256(data) for name, data in sorted(self.outputs.items())},
            "kernels": dict(sorted(self.kernels.items())),
        }
        return (json.dumps(document, indent=2) + "\n").encode()

    def readme(self):
        """README.md with its table of argument structs as the modules have them."""
        rows = ["| entry | argument struct: name, type or access, offset | bytes |", "|---|---|---|"]
        for entry, kernel in sorted(self.kernels.items()):
            rows.append(f"| `{entry}` | {', '.join(map(describe, kernel['args']))} | {kernel['args_bytes']} |")
        return TABLE.sub(lambda _: "\n" + "\n".join(rows) + "\n\n", README.read_text()).encode()


def describe(argument):
    return f"{argument['name']} {argument.get('access', '')} {argument['type']} @{argument['offset']}".replace("  ", " ")


def write(build):
    OUT.mkdir(exist_ok=True)
    for stale in {path.name for path in OUT.iterdir()} - set(build.outputs):
        (OUT / stale).unlink()
    for name, data in build.outputs.items():
        (OUT / name).write_bytes(data)
    MANIFEST.write_bytes(build.manifest())
    README.write_bytes(build.readme())
    print(f"{len(build.kernels)} kernels, {len(build.outputs)} files, {sum(map(len, build.outputs.values()))} bytes")


def differences(build):
    """One line for each committed file that a rebuild would change."""
    wanted = {OUT / name: data for name, data in build.outputs.items()} | {MANIFEST: build.manifest(), README: build.readme()}
    for path, data in sorted(wanted.items()):
        if not path.is_file():
            yield f"{path.relative_to(HERE)} is missing"
        elif path.read_bytes() != data:
            yield f"{path.relative_to(HERE)} is not what the sources give"
    for path in sorted(OUT.glob("*")):
        if path not in wanted:
            yield f"{path.relative_to(HERE)} belongs to no source"


def assemble_ptx(build):
    """Lets NVIDIA's assembler judge every .ptx for every GPU generation we name."""
    ptxas = build_toolchain.home(PTXAS) / PTXAS.members[0]
    with tempfile.TemporaryDirectory() as scratch:
        for name in sorted(build.outputs):
            if name.endswith(".ptx"):
                source = Path(scratch) / name
                source.write_bytes(build.outputs[name])
                for target in PTXAS_TARGETS:
                    command = [str(ptxas), f"-arch={target}", str(source), "-o", str(Path(scratch) / "out.cubin")]
                    done = subprocess.run(command, capture_output=True, text=True)
                    if done.returncode != 0:
                        raise ToolchainError(f"ptxas refuses {name} for {target}:\n{done.stderr.strip()}")
    print(f"ptxas accepts every .ptx for {', '.join(PTXAS_TARGETS)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the committed files, change nothing")
    parser.add_argument("--ptxas", action="store_true", help="as --check, and assemble every .ptx")
    parser.add_argument("--install-only", action="store_true", help="fetch the compilers and stop")
    options = parser.parse_args()
    build_toolchain.install([SLANG, NVRTC] + ([PTXAS] if options.ptxas else []))
    if options.install_only:
        print(f"compilers are in {build_toolchain.directory()}")
        return 0
    build = Build()
    if not (options.check or options.ptxas):
        write(build)
        return 0
    found = list(differences(build))
    if found:
        print("shaders/ is not up to date; run shaders/build.py and commit the result:", file=sys.stderr)
        print("\n".join(f"  {line}" for line in found), file=sys.stderr)
        return 1
    print(f"{len(build.kernels)} kernels: {len(build.outputs)} files are what the sources compile to")
    if options.ptxas:
        assemble_ptx(build)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ToolchainError, SpirvError, ConventionError) as problem:
        print(f"shaders/build.py: {problem}", file=sys.stderr)
        sys.exit(2)
