//! Walks a SPIR-V module and keeps what describes its interface.
//!
//! SPIR-V is a header and a list of instructions that each begin with their own length, so a reader can step over what it does not know.
//! This one must: kernels come from compilers newer than any grammar that could be built in here.

use std::collections::HashMap;

use spirv::{Decoration, ExecutionMode, ExecutionModel, Op, StorageClass};

const HEADER_WORDS: usize = 5;
const MAGIC: u32 = 0x0723_0203;

/// The interface of a module, by result ids.
#[derive(Debug, Default)]
pub(super) struct Module {
    /// Major in bits 16 to 23, minor in bits 8 to 15.
    pub(super) version: u32,
    pub(super) capabilities: Vec<u32>,
    /// Compute entry points: the function's id and the name.
    pub(super) entries: Vec<(u32, String)>,
    /// `LocalSize` per function.
    pub(super) local_size: HashMap<u32, [u32; 3]>,
    /// `LocalSizeId` per function: ids of constants.
    pub(super) local_size_ids: HashMap<u32, [u32; 3]>,
    /// What is decorated as the workgroup size, which overrides both.
    pub(super) workgroup_size: Option<u32>,
    pub(super) types: HashMap<u32, Type>,
    /// 32-bit constants.
    pub(super) constants: HashMap<u32, u32>,
    /// Constants made of others.
    pub(super) composites: HashMap<u32, Vec<u32>>,
    /// Byte offsets of struct members.
    pub(super) offsets: HashMap<(u32, u32), u32>,
    /// Types of variables in the push constant class.
    pub(super) push_constants: Vec<u32>,
    pub(super) has_descriptors: bool,
}

/// A type that a parameter block can be made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Type {
    Int { width: u32, signed: u32 },
    Float { width: u32 },
    Pointer { class: u32, to: u32 },
    Struct(Vec<u32>),
}

impl Module {
    /// Reads a module, or says in words what is wrong with it.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, &'static str> {
        if !bytes.len().is_multiple_of(4) {
            return Err("its length is not a whole number of words");
        }
        let words: Vec<u32> = bytes.chunks_exact(4).map(word).collect();
        let Some((header, mut rest)) = words.split_at_checked(HEADER_WORDS) else {
            return Err("it is shorter than a SPIR-V header");
        };
        match header[0] {
            MAGIC => {}
            swapped if swapped.swap_bytes() == MAGIC => {
                return Err("it is SPIR-V of the other byte order");
            }
            _ => return Err("it is not SPIR-V: the magic number is wrong"),
        }
        let mut module = Self { version: header[1], ..Self::default() };
        while let [first, ..] = rest {
            let len = (first >> 16) as usize;
            if len == 0 {
                return Err("an instruction has length zero");
            }
            let Some((instruction, after)) = rest.split_at_checked(len) else {
                return Err("it ends in the middle of an instruction");
            };
            rest = after;
            module.take(first & 0xffff, &instruction[1..]).ok_or("an instruction is too short")?;
        }
        Ok(module)
    }

    /// Takes one instruction in; `None` when operands are missing that its kind must have.
    fn take(&mut self, opcode: u32, operands: &[u32]) -> Option<()> {
        let at = |index: usize| operands.get(index).copied();
        match Op::from_u32(opcode) {
            Some(Op::Capability) => self.capabilities.push(at(0)?),
            Some(Op::EntryPoint) if at(0)? == ExecutionModel::GLCompute as u32 => {
                self.entries.push((at(1)?, text(operands.get(2..)?)));
            }
            Some(Op::ExecutionMode | Op::ExecutionModeId) => self.take_mode(operands)?,
            Some(Op::Decorate) => self.take_decoration(operands)?,
            Some(Op::MemberDecorate) if at(2)? == Decoration::Offset as u32 => {
                self.offsets.insert((at(0)?, at(1)?), at(3)?);
            }
            Some(Op::TypeInt) => {
                self.types.insert(at(0)?, Type::Int { width: at(1)?, signed: at(2)? });
            }
            Some(Op::TypeFloat) => {
                self.types.insert(at(0)?, Type::Float { width: at(1)? });
            }
            Some(Op::TypePointer) => {
                self.types.insert(at(0)?, Type::Pointer { class: at(1)?, to: at(2)? });
            }
            Some(Op::TypeStruct) => {
                self.types.insert(at(0)?, Type::Struct(operands.get(1..)?.to_vec()));
            }
            Some(Op::Constant) => {
                self.constants.insert(at(1)?, at(2)?);
            }
            Some(Op::ConstantComposite) => {
                self.composites.insert(at(1)?, operands.get(2..)?.to_vec());
            }
            Some(Op::Variable) if at(2)? == StorageClass::PushConstant as u32 => {
                self.push_constants.push(at(0)?);
            }
            _ => {}
        }
        Some(())
    }

    fn take_mode(&mut self, operands: &[u32]) -> Option<()> {
        let [function, mode, values @ ..] = operands else { return None };
        let size = || Some([*values.first()?, *values.get(1)?, *values.get(2)?]);
        if *mode == ExecutionMode::LocalSize as u32 {
            self.local_size.insert(*function, size()?);
        } else if *mode == ExecutionMode::LocalSizeId as u32 {
            self.local_size_ids.insert(*function, size()?);
        }
        Some(())
    }

    fn take_decoration(&mut self, operands: &[u32]) -> Option<()> {
        let [target, decoration, values @ ..] = operands else { return None };
        if *decoration == Decoration::DescriptorSet as u32 {
            self.has_descriptors = true;
        }
        let workgroup_size = spirv::BuiltIn::WorkgroupSize as u32;
        if *decoration == Decoration::BuiltIn as u32 && *values.first()? == workgroup_size {
            self.workgroup_size = Some(*target);
        }
        Some(())
    }
}

fn word(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte))
}

/// A string of SPIR-V: bytes in words, ended by a zero.
fn text(words: &[u32]) -> String {
    let bytes = words.iter().flat_map(|word| word.to_le_bytes()).take_while(|byte| *byte != 0);
    String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned()
}
