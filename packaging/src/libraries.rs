//! The shared libraries that programs need: what they name (`DT_NEEDED`), what those name, and so on.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs, io,
    path::{Path, PathBuf},
};

use goblin::elf::Elf;

use crate::platform::Platform;

/// What a set of programs needs to start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Libraries {
    /// The dynamic linker: the path at which the programs ask for it, and the file here. None for static programs.
    pub linker: Option<(PathBuf, PathBuf)>,
    /// The files here by the name under which they are asked for, without the dynamic linker.
    pub files: BTreeMap<String, PathBuf>,
}

impl Libraries {
    /// Every file, the dynamic linker first.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        let linker = self.linker.iter().map(|(_, file)| file.as_path());
        linker.chain(self.files.values().map(PathBuf::as_path))
    }
}

/// Why the libraries could not be found.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// A program or library could not be read.
    #[error("{}: {source}", file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is no ELF file.
    #[error("{} is no program or library: {source}", file.display())]
    NotElf {
        /// Which.
        file: PathBuf,
        /// What is wrong with it.
        source: goblin::error::Error,
    },
    /// It is for another machine.
    #[error("{} is not for {platform}", file.display())]
    OtherMachine {
        /// Which.
        file: PathBuf,
        /// What was wanted.
        platform: Platform,
    },
    /// A library is nowhere.
    #[error(
        "{} needs {name}, which is in none of {}; on Debian: apt-get install libc6:{arch} libgcc-s1:{arch} \
         (after dpkg --add-architecture {arch}), or {cross} for its own older copies",
        by.display(), join(folders), arch = platform.word(), cross = platform.cross_compiler_package()
    )]
    Missing {
        /// Its name.
        name: String,
        /// What needs it.
        by: PathBuf,
        /// For which machine.
        platform: Platform,
        /// Where it was looked for.
        folders: Vec<PathBuf>,
    },
    /// Two programs ask for different dynamic linkers.
    #[error("{} wants the dynamic linker {}, another program {}", by.display(), one.display(), other.display())]
    TwoLinkers {
        /// Which program.
        by: PathBuf,
        /// What it asks for.
        one: PathBuf,
        /// What the others ask for.
        other: PathBuf,
    },
}

fn join(folders: &[PathBuf]) -> String {
    let words: Vec<_> = folders.iter().map(|f| f.display().to_string()).collect();
    words.join(", ")
}

/// What an ELF file asks for.
struct Needs {
    linker: Option<PathBuf>,
    names: Vec<String>,
}

/// Everything that `programs` need, looked for in `folders` (which are searched in order, not below).
pub fn closure(
    programs: &[PathBuf],
    platform: Platform,
    folders: &[PathBuf],
) -> Result<Libraries, LibraryError> {
    let mut found: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut linker: Option<PathBuf> = None;
    let mut open: Vec<PathBuf> = programs.to_vec();
    while let Some(file) = open.pop() {
        let needs = read(&file, platform)?;
        match (&linker, needs.linker) {
            (Some(other), Some(one)) if *other != one => {
                let (by, other) = (file, other.clone());
                return Err(LibraryError::TwoLinkers { by, one, other });
            }
            (None, Some(one)) => linker = Some(one),
            _ => {}
        }
        for name in needs.names {
            if let Entry::Vacant(place) = found.entry(name) {
                let path = find(place.key(), &file, platform, folders)?;
                open.push(path.clone());
                place.insert(path);
            }
        }
    }
    let Some(asked) = linker else {
        return Ok(Libraries {
            linker: None,
            files: found,
        });
    };
    let name = asked.file_name().unwrap_or_default().to_string_lossy();
    // Programs that do not name the dynamic linker as a library need it all the same.
    let file = match found.remove(name.as_ref()) {
        Some(file) => file,
        None => find(&name, &asked, platform, folders)?,
    };
    Ok(Libraries {
        linker: Some((asked, file)),
        files: found,
    })
}

fn find(
    name: &str,
    by: &Path,
    platform: Platform,
    folders: &[PathBuf],
) -> Result<PathBuf, LibraryError> {
    folders
        .iter()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| LibraryError::Missing {
            name: name.to_owned(),
            by: by.to_path_buf(),
            platform,
            folders: folders.to_vec(),
        })
}

fn read(file: &Path, platform: Platform) -> Result<Needs, LibraryError> {
    let bytes = fs::read(file).map_err(|source| LibraryError::Unreadable {
        file: file.to_path_buf(),
        source,
    })?;
    let elf = Elf::parse(&bytes).map_err(|source| LibraryError::NotElf {
        file: file.to_path_buf(),
        source,
    })?;
    if elf.header.e_machine != platform.elf_machine() || !elf.is_64 {
        return Err(LibraryError::OtherMachine {
            file: file.to_path_buf(),
            platform,
        });
    }
    Ok(Needs {
        linker: elf.interpreter.map(PathBuf::from),
        names: elf.libraries.iter().map(|&name| name.to_owned()).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> (PathBuf, Platform) {
        let platform = Platform::own().expect("a machine that the image is made for");
        (std::env::current_exe().unwrap(), platform)
    }

    #[test]
    fn a_program_needs_the_c_library_and_the_linker_that_it_names() {
        let (program, platform) = own();
        let needed = closure(&[program], platform, &platform.library_folders()).unwrap();
        let (asked, file) = needed.linker.clone().unwrap();
        assert_eq!(asked.file_name(), file.file_name());
        assert!(needed.files.contains_key("libc.so.6"), "{needed:?}");
        // Only once, as the linker.
        let name = asked.file_name().unwrap().to_str().unwrap();
        assert!(!needed.files.contains_key(name));
        assert_eq!(needed.paths().count(), needed.files.len() + 1);
    }

    #[test]
    fn what_a_library_needs_is_needed_too() {
        let (program, platform) = own();
        let dir = tempfile::tempdir().unwrap();
        let all = closure(
            std::slice::from_ref(&program),
            platform,
            &platform.library_folders(),
        )
        .unwrap();
        // Without the C library's folder, libgcc alone is found, and what it needs is missing.
        let gcc = &all.files["libgcc_s.so.1"];
        let gcc_only = dir.path().join("libgcc_s.so.1");
        fs::copy(gcc, &gcc_only).unwrap();
        let error = closure(&[gcc_only], platform, &[dir.path().to_path_buf()]).unwrap_err();
        match &error {
            LibraryError::Missing { name, .. } => assert_eq!(name, "libc.so.6"),
            other => panic!("{other}"),
        }
        assert!(error.to_string().contains("apt-get install"), "{error}");
    }

    #[test]
    fn programs_for_another_machine_and_other_files_are_refused() {
        let (program, platform) = own();
        let other = match platform {
            Platform::Amd64 => Platform::Arm64,
            Platform::Arm64 => Platform::Amd64,
        };
        let error = closure(&[program], other, &[]).unwrap_err();
        assert!(
            matches!(error, LibraryError::OtherMachine { .. }),
            "{error}"
        );
        let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let error = closure(&[manifest], platform, &[]).unwrap_err();
        assert!(matches!(error, LibraryError::NotElf { .. }), "{error}");
    }
}
