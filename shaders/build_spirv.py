"""What `build.py` does to a SPIR-V module after the compiler, and what it reads out of one.

A module is a list of 32-bit words: five of header, then instructions whose first word is (word count << 16 | opcode).
"""

import struct

OP_SOURCE, OP_NAME, OP_MEMBER_NAME, OP_ENTRY_POINT, OP_EXECUTION_MODE, OP_CAPABILITY = 3, 5, 6, 15, 16, 17
OP_TYPE_INT, OP_TYPE_FLOAT, OP_TYPE_STRUCT, OP_TYPE_POINTER = 21, 22, 30, 32
OP_VARIABLE, OP_DECORATE, OP_MEMBER_DECORATE = 59, 71, 72
OP_FNEGATE, OP_FADD, OP_FSUB, OP_FMUL, OP_FDIV, OP_FREM, OP_FMOD = 127, 129, 131, 133, 136, 140, 141
OP_EXT_INST = 12

ARITHMETIC = {OP_FNEGATE, OP_FADD, OP_FSUB, OP_FMUL, OP_FDIV, OP_FREM, OP_FMOD}
ANNOTATIONS = {OP_DECORATE, OP_MEMBER_DECORATE}
EXECUTION_MODE_LOCAL_SIZE = 17
STORAGE_PUSH_CONSTANT, STORAGE_PHYSICAL = 9, 5349
DECORATION_OFFSET, DECORATION_NO_CONTRACTION = 35, 42
GLSL_FMA = 50
CAPABILITIES = {
    1: "Shader",
    11: "Int64",
    12: "Int64Atomics",
    4445: "VariablePointersStorageBuffer",
    4442: "VariablePointers",
    5345: "VulkanMemoryModel",
    5347: "PhysicalStorageBufferAddresses",
}


class SpirvError(Exception):
    """A module is not what the kernels' conventions ask for."""


def words(code):
    return list(struct.unpack(f"<{len(code) // 4}I", code))


def instructions(module):
    """Yields (opcode, operands) of each instruction."""
    at = 5
    while at < len(module):
        count = module[at] >> 16
        yield module[at] & 0xFFFF, module[at + 1 : at + count]
        at += count


def assemble(header, body):
    module = list(header)
    for opcode, operands in body:
        module += [(len(operands) + 1) << 16 | opcode, *operands]
    return struct.pack(f"<{len(module)}I", *module)


def prepare(code):
    """Names no source language (older tools refuse Slang's number) and forbids contraction of float arithmetic.

    To be done before the optimiser runs: without the decoration it may reorder float arithmetic, and a driver may fuse
    a product with a sum. Either would give other bits than the same expression gives on the CPU.
    """
    module = words(code)
    body, exact, last_annotation = [], [], 0
    for opcode, operands in instructions(module):
        if opcode == OP_SOURCE:
            operands = [0, *operands[1:]]
        if opcode in ARITHMETIC:
            exact.append((OP_DECORATE, [operands[1], DECORATION_NO_CONTRACTION]))
        body.append((opcode, operands))
        if opcode in ANNOTATIONS:
            last_annotation = len(body)
    return assemble(module[:5], body[:last_annotation] + exact + body[last_annotation:])


def check_exact(code):
    """After the optimiser: every float operation still decorated, and none fused."""
    decorated, arithmetic = set(), []
    for opcode, operands in instructions(words(code)):
        if opcode == OP_DECORATE and operands[1] == DECORATION_NO_CONTRACTION:
            decorated.add(operands[0])
        if opcode in ARITHMETIC:
            arithmetic.append(operands[1])
        if opcode == OP_EXT_INST and operands[3] == GLSL_FMA:
            raise SpirvError("a fused multiply-add appeared")
    if any(result not in decorated for result in arithmetic):
        raise SpirvError("a float operation lost its NoContraction")


def string(operands):
    return struct.pack(f"<{len(operands)}I", *operands).split(b"\0", 1)[0].decode()


class Module:
    """The entry point, workgroup, capabilities and argument struct of a module, as the driver will see them."""

    def __init__(self, code):
        self.names, self.offsets, self.types, self.push = {}, {}, {}, []
        self.entries, self.workgroup, self.capabilities = [], None, []
        for opcode, operands in instructions(words(code)):
            self.read(opcode, operands)

    def read(self, opcode, operands):
        if opcode == OP_ENTRY_POINT:
            self.entries.append(string(operands[2:]))
        elif opcode == OP_EXECUTION_MODE and operands[1] == EXECUTION_MODE_LOCAL_SIZE:
            self.workgroup = operands[2:]
        elif opcode == OP_CAPABILITY:
            self.capabilities.append(CAPABILITIES.get(operands[0], str(operands[0])))
        elif opcode == OP_MEMBER_NAME:
            self.names[operands[0], operands[1]] = string(operands[2:])
        elif opcode == OP_MEMBER_DECORATE and operands[2] == DECORATION_OFFSET:
            self.offsets[operands[0], operands[1]] = operands[3]
        elif opcode in (OP_TYPE_INT, OP_TYPE_FLOAT, OP_TYPE_STRUCT, OP_TYPE_POINTER):
            self.types[operands[0]] = (opcode, operands[1:])
        elif opcode == OP_VARIABLE and operands[2] == STORAGE_PUSH_CONSTANT:
            self.push.append(operands[0])

    def arguments(self):
        """The members of the one argument struct: [(name, type, offset in bytes)], arrays as `*f32`."""
        if len(self.push) != 1:
            raise SpirvError(f"{len(self.push)} push constant blocks, wanted 1")
        block = self.types[self.push[0]][1][1]
        members = self.types[block][1]
        if len(members) != 1 or self.offsets[block, 0] != 0:
            raise SpirvError("an entry point takes exactly one struct")
        (args,) = members
        return [
            (self.names[args, index], self.type_name(member), self.offsets[args, index])
            for index, member in enumerate(self.types[args][1])
        ]

    def type_name(self, identifier):
        opcode, operands = self.types[identifier]
        if opcode == OP_TYPE_INT and operands[1] == 0:
            return f"u{operands[0]}"
        if opcode == OP_TYPE_FLOAT:
            return f"f{operands[0]}"
        if opcode == OP_TYPE_POINTER and operands[0] == STORAGE_PHYSICAL:
            return "*" + self.type_name(operands[1])
        raise SpirvError(f"an argument struct may not hold type {opcode}")
