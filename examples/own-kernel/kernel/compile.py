#!/usr/bin/env python3
"""Compiles clamp.slang to clamp.spv with the compilers of shaders/, and notes in manifest.json what was compiled to what; with --check,
compares with the committed files."""

import hashlib
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "shaders"))
sys.dont_write_bytecode = True

import build
import build_spirv
import build_toolchain


def compiled():
    build_toolchain.install([build_toolchain.SLANG])
    slang, tools = build_toolchain.Slang(), build_toolchain.SpirvTools()
    raw = slang.compile([str(HERE / "clamp.slang"), *build.SLANG_SPIRV, "-entry", "clamp_f32"])
    code = tools.optimize(build_spirv.prepare(raw))
    tools.validate(code, "clamp_f32")
    return code


def manifest(code):
    """Of shaders/manifest.json the part that tells without a compiler that a source has changed."""

    def sha256(data):
        return hashlib.sha256(data).hexdigest()

    sources = {name: sha256((HERE / name).read_bytes()) for name in ("clamp.slang", "compile.py")}
    document = {"format": 1, "sources": sources, "outputs": {"clamp.spv": sha256(code)}}
    return (json.dumps(document, indent=2) + "\n").encode()


if __name__ == "__main__":
    code = compiled()
    for name, data in {"clamp.spv": code, "manifest.json": manifest(code)}.items():
        if "--check" not in sys.argv:
            (HERE / name).write_bytes(data)
        elif (HERE / name).read_bytes() != data:
            sys.exit(f"{name} is not what clamp.slang compiles to; run compile.py")
    print(f"clamp.spv: {len(code)} bytes")
