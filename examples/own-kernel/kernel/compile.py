#!/usr/bin/env python3
"""Compiles clamp.slang to clamp.spv with the compilers of shaders/; with --check, compares with the committed file."""

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


if __name__ == "__main__":
    code, target = compiled(), HERE / "clamp.spv"
    if "--check" not in sys.argv:
        target.write_bytes(code)
    elif target.read_bytes() != code:
        sys.exit("clamp.spv is not what clamp.slang compiles to; run compile.py")
    print(f"clamp.spv: {len(code)} bytes")
