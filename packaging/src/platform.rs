//! The machines that the image is made for.

use std::path::PathBuf;

use oci_spec::image::Arch;

/// A machine, as container images name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Platform {
    /// 64-bit x86.
    #[value(name = "linux/amd64")]
    Amd64,
    /// 64-bit Arm.
    #[value(name = "linux/arm64")]
    Arm64,
}

impl Platform {
    /// The machine that this program was built for, when it is one of them.
    pub fn own() -> Option<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Self::Amd64),
            "aarch64" => Some(Self::Arm64),
            _ => None,
        }
    }

    /// Its architecture in the OCI image specification.
    pub fn arch(self) -> Arch {
        match self {
            Self::Amd64 => Arch::Amd64,
            Self::Arm64 => Arch::ARM64,
        }
    }

    /// The word for it in file names; Debian's name of the architecture too.
    pub fn word(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The Rust compiler's name of the target.
    pub fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// GNU's name, of which Debian makes library folders and the names of cross compilers.
    pub fn gnu(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-linux-gnu",
            Self::Arm64 => "aarch64-linux-gnu",
        }
    }

    /// Debian's package with a C compiler that runs elsewhere and compiles for this machine; it brings this machine's C
    /// library.
    pub fn cross_compiler_package(self) -> String {
        format!("gcc-{}", self.gnu().replace('_', "-"))
    }

    /// `e_machine` in an ELF header.
    pub fn elf_machine(self) -> u16 {
        match self {
            Self::Amd64 => goblin::elf::header::EM_X86_64,
            Self::Arm64 => goblin::elf::header::EM_AARCH64,
        }
    }

    /// Where Debian puts this machine's shared libraries: those of the machine itself or of a foreign architecture
    /// first, those that belong to a cross compiler (older, they miss security updates) last.
    pub fn library_folders(self) -> Vec<PathBuf> {
        let gnu = self.gnu();
        [
            format!("/lib/{gnu}"),
            format!("/usr/lib/{gnu}"),
            format!("/usr/{gnu}/lib"),
        ]
        .map(PathBuf::from)
        .to_vec()
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "linux/{}", self.word())
    }
}
