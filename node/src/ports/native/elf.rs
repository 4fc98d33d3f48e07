//! What a file must be to be run as a program: an executable in the ELF format, for one machine.
//!
//! Read from its header, before it is offered and again before it is run: the file itself says what it was made for, and nobody
//! else is asked. A script is none, because what runs it would be of another machine's choosing.

use remote_network_core::port::Target;
use thiserror::Error;

/// Bytes from the beginning of a file that say what it is: the header, and the program headers that usually follow.
pub const HEAD_BYTES: usize = 4_096;

/// Why a file is no program.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum NoProgram {
    /// Something else.
    #[error("it is no executable in the ELF format")]
    NotElf,
    /// A text with an interpreter.
    #[error(
        "it is a script, which needs an interpreter of this machine; offer the interpreter, or a container image"
    )]
    Script,
    /// WebAssembly.
    #[error("it is a WebAssembly module, which `service add wasm` offers")]
    Wasm,
    /// Part of a program.
    #[error("it is an object file or a core dump, not a program")]
    NotExecutable,
    /// A library.
    #[error("it is a shared library without an entry point")]
    Library,
    /// Of a kind that this version does not know.
    #[error("it is for a machine that is not known here (ELF class {class}, machine {machine})")]
    Machine {
        /// 32 or 64 bits, as 1 or 2.
        class: u8,
        /// The number of the processor.
        machine: u16,
    },
    /// For another machine.
    #[error("it is a program for {theirs}, and this machine is {here}")]
    Elsewhere {
        /// What it is for.
        theirs: Target,
        /// What it is tried on.
        here: Target,
    },
}

/// What a header says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Program {
    /// Where it runs.
    pub target: Target,
    /// The dynamic loader that it asks for, if any.
    pub interpreter: Option<String>,
}

/// This machine, in the words of targets.
pub fn here() -> Target {
    Target { arch: std::env::consts::ARCH.to_owned(), os: std::env::consts::OS.to_owned() }
}

/// Looks at the first [`HEAD_BYTES`] of a file.
pub fn look(head: &[u8]) -> Result<Program, NoProgram> {
    match head {
        [0x7f, b'E', b'L', b'F', ..] => {}
        [b'#', b'!', ..] => return Err(NoProgram::Script),
        [0, b'a', b's', b'm', ..] => return Err(NoProgram::Wasm),
        _ => return Err(NoProgram::NotElf),
    }
    let (Some(&class), Some(&order), Some(&abi)) = (head.get(4), head.get(5), head.get(7)) else {
        return Err(NoProgram::NotElf);
    };
    let field = Fields { head, wide: class == 2, big: order == 2 };
    let (kind, machine) = (field.u16(16), field.u16(18));
    let (Some(kind), Some(machine)) = (kind, machine) else { return Err(NoProgram::NotElf) };
    let arch = match (class, order, machine) {
        (2, 1, 62) => "x86_64",
        (2, 1, 183) => "aarch64",
        (2, 1, 243) => "riscv64",
        (2, 1, 21) => "powerpc64",
        (2, 2, 22) => "s390x",
        (1, 1, 3) => "x86",
        (1, 1, 40) => "arm",
        _ => return Err(NoProgram::Machine { class, machine }),
    };
    let os = match abi {
        0 | 3 => "linux",
        9 => "freebsd",
        _ => return Err(NoProgram::Machine { class, machine }),
    };
    let entry = field.word(24).unwrap_or_default();
    match kind {
        2 => {}
        3 if entry != 0 => {}
        3 => return Err(NoProgram::Library),
        _ => return Err(NoProgram::NotExecutable),
    }
    let target = Target { arch: arch.to_owned(), os: os.to_owned() };
    Ok(Program { target, interpreter: field.interpreter() })
}

/// The same, and that it is for this machine.
pub fn look_for_here(head: &[u8]) -> Result<Program, NoProgram> {
    let program = look(head)?;
    let here = here();
    if program.target == here {
        return Ok(program);
    }
    Err(NoProgram::Elsewhere { theirs: program.target, here })
}

/// Numbers of a header, in its own width and order.
struct Fields<'a> {
    head: &'a [u8],
    wide: bool,
    big: bool,
}

impl Fields<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let mut bytes: [u8; N] = self.head.get(at..)?.first_chunk().copied()?;
        if !self.big {
            bytes.reverse();
        }
        Some(bytes)
    }

    fn u16(&self, at: usize) -> Option<u16> {
        self.bytes(at).map(u16::from_be_bytes)
    }

    fn word(&self, at: usize) -> Option<u64> {
        if self.wide {
            self.bytes(at).map(u64::from_be_bytes)
        } else {
            self.bytes(at).map(u32::from_be_bytes).map(u64::from)
        }
    }

    /// The text of the first program header of kind `PT_INTERP`, as far as it lies in the head.
    fn interpreter(&self) -> Option<String> {
        let at = |wide, narrow| if self.wide { wide } else { narrow };
        let table = usize::try_from(self.word(at(32, 28))?).ok()?;
        let (size, count) = (self.u16(at(54, 42))?, self.u16(at(56, 44))?);
        for n in 0..usize::from(count) {
            let header = table.checked_add(n.checked_mul(usize::from(size))?)?;
            let kind = self.bytes(header).map(u32::from_be_bytes)?;
            if kind == 3 {
                let start = usize::try_from(self.word(header.checked_add(at(8, 4))?)?).ok()?;
                let text = self.head.get(start..)?;
                let text = text.split(|b| *b == 0).next()?;
                return std::str::from_utf8(text).ok().map(str::to_owned);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(of: &str) -> Vec<u8> {
        let bytes = std::fs::read(of).unwrap();
        bytes[..bytes.len().min(HEAD_BYTES)].to_vec()
    }

    #[test]
    fn a_program_of_this_machine_is_known_by_its_header_and_so_is_its_loader() {
        let own = std::env::current_exe().unwrap();
        let program = look_for_here(&head(own.to_str().unwrap())).unwrap();
        assert_eq!(program.target, here());
        if cfg!(target_env = "gnu") {
            assert!(program.interpreter.unwrap().contains("ld-linux"));
        }
    }

    #[test]
    fn what_is_made_for_another_machine_is_refused_with_both_names() {
        let mut other = head(std::env::current_exe().unwrap().to_str().unwrap());
        // EM_AARCH64, or EM_X86_64 where that is what this is.
        let (machine, name) = if here().arch == "aarch64" { (62u16, "x86_64") } else { (183, "aarch64") };
        other[18..20].copy_from_slice(&machine.to_le_bytes());
        let why = look_for_here(&other).unwrap_err().to_string();
        assert!(why.contains(&format!("linux on {name}")) && why.contains(&here().to_string()), "{why}");
        other[18..20].copy_from_slice(&9_999u16.to_le_bytes());
        assert_eq!(look(&other), Err(NoProgram::Machine { class: 2, machine: 9_999 }));
    }

    #[test]
    fn scripts_modules_libraries_objects_and_rubbish_are_no_programs() {
        let own = head(std::env::current_exe().unwrap().to_str().unwrap());
        let changed = |at: usize, bytes: &[u8]| {
            let mut head = own.clone();
            head[at..at + bytes.len()].copy_from_slice(bytes);
            look(&head)
        };
        assert_eq!(look(b"#!/bin/sh\n"), Err(NoProgram::Script));
        assert_eq!(look(b"\0asm\x01\0\0\0"), Err(NoProgram::Wasm));
        assert_eq!(changed(16, &1u16.to_le_bytes()), Err(NoProgram::NotExecutable));
        assert_eq!(changed(16, &4u16.to_le_bytes()), Err(NoProgram::NotExecutable));
        let mut library = own.clone();
        library[16..18].copy_from_slice(&3u16.to_le_bytes());
        library[24..32].fill(0);
        assert_eq!(look(&library), Err(NoProgram::Library));
        for rubbish in [&b""[..], b"MZ", b"\x7fELF", &own[..17]] {
            assert_eq!(look(rubbish), Err(NoProgram::NotElf));
        }
    }

    #[test]
    fn a_header_that_lies_about_its_tables_names_no_loader_and_breaks_nothing() {
        let mut own = head(std::env::current_exe().unwrap().to_str().unwrap());
        for (at, bytes) in [(32, [0xff; 8]), (32, [0; 8]), (54, [0xff; 8])] {
            own[at..at + 8].copy_from_slice(&bytes);
            assert_eq!(look(&own).unwrap().interpreter, None);
        }
    }
}
