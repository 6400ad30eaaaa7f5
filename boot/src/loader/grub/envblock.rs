//! GRUB's environment block: 1024 bytes of `name=value` lines.
//!
//! The format is that of GRUB's `lib/envblk.c`: the line `# GRUB Environment Block`, then one line per variable, in
//! whose value a backslash and a newline are preceded by a backslash, then `#` to the end of the block. Lines that
//! begin with `#` are comments. GRUB changes a variable where it stands and appends new ones; so does this, byte for
//! byte.

/// Size of a block in bytes: what `grub-editenv` creates and the only size it changes.
pub const SIZE: usize = 1024;

const SIGNATURE: &[u8] = b"# GRUB Environment Block\n";

/// One line of a block, without its newline.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Line {
    /// Begins with `#`, kept as it is.
    Comment(Vec<u8>),
    /// A variable; the value unescaped.
    Variable { name: Vec<u8>, value: Vec<u8> },
}

/// An environment block: its variables and comments in their order.
///
/// Invariants: it fits a block when rendered; no variable occurs twice.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct EnvBlock {
    lines: Vec<Line>,
}

/// A block is none of GRUB's, or is torn.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvBlockError {
    /// Not 1024 bytes.
    #[error(
        "it has {0} bytes, an environment block has exactly {SIZE}; make one with grub-editenv"
    )]
    Size(u64),
    /// Another beginning.
    #[error("it does not begin with the line \"# GRUB Environment Block\"")]
    Signature,
    /// A line that is neither variable nor comment, or no padding at the end.
    #[error("byte {offset} of {SIZE}: {what}; the block is torn or was edited by other tools")]
    Torn {
        /// Where the offending line begins.
        offset: usize,
        /// What is wrong there.
        what: &'static str,
    },
    /// The same variable twice: GRUB would change the first and believe the last.
    #[error("the variable {0} occurs twice")]
    Twice(String),
    /// No room.
    #[error(
        "{needed} bytes are needed, a block has {SIZE}; remove other variables with grub-editenv"
    )]
    Full {
        /// What the block would take.
        needed: usize,
    },
    /// Not a variable's name or value.
    #[error("{0:?} cannot be a variable of an environment block")]
    Variable(String),
}

impl EnvBlock {
    /// Reads a block.
    pub fn parse(block: &[u8]) -> Result<Self, EnvBlockError> {
        if block.len() != SIZE {
            return Err(EnvBlockError::Size(block.len() as u64));
        }
        let body = block
            .strip_prefix(SIGNATURE)
            .ok_or(EnvBlockError::Signature)?;
        let mut lines: Vec<Line> = Vec::new();
        let mut rest = body;
        while let Some(first) = rest.first() {
            let offset = SIZE - rest.len();
            let torn = |what| EnvBlockError::Torn { offset, what };
            if *first == b'#' {
                // A comment ends with a newline; the padding does not, and is nothing but `#`.
                if let Some(end) = rest.iter().position(|b| *b == b'\n') {
                    lines.push(Line::Comment(rest[..end].to_vec()));
                    rest = &rest[end + 1..];
                    continue;
                }
                if rest.iter().all(|b| *b == b'#') {
                    break;
                }
                return Err(torn("the padding holds something else than #"));
            }
            let (line, after) = split_line(rest).ok_or_else(|| torn("a line does not end"))?;
            let equals = line
                .iter()
                .position(|b| *b == b'=')
                .ok_or_else(|| torn("a line has no ="))?;
            let (name, value) = (&line[..equals], unescape(&line[equals + 1..]));
            if name.is_empty() || !name.iter().all(u8::is_ascii_graphic) || value.contains(&0) {
                return Err(torn("a line is no variable"));
            }
            if lines
                .iter()
                .any(|l| matches!(l, Line::Variable { name: n, .. } if n == name))
            {
                return Err(EnvBlockError::Twice(
                    String::from_utf8_lossy(name).into_owned(),
                ));
            }
            lines.push(Line::Variable {
                name: name.to_vec(),
                value,
            });
            rest = after;
        }
        Ok(Self { lines })
    }

    /// The block's 1024 bytes.
    pub fn render(&self) -> Result<[u8; SIZE], EnvBlockError> {
        let mut bytes = SIGNATURE.to_vec();
        for line in &self.lines {
            match line {
                Line::Comment(text) => bytes.extend_from_slice(text),
                Line::Variable { name, value } => {
                    bytes.extend_from_slice(name);
                    bytes.push(b'=');
                    escape(value, &mut bytes);
                }
            }
            bytes.push(b'\n');
        }
        let mut block = [b'#'; SIZE];
        let needed = bytes.len();
        block
            .get_mut(..needed)
            .ok_or(EnvBlockError::Full { needed })?
            .copy_from_slice(&bytes);
        Ok(block)
    }

    /// The value of a variable; `None` also when it is not text.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.lines.iter().find_map(|line| match line {
            Line::Variable { name: n, value } if n == name.as_bytes() => {
                std::str::from_utf8(value).ok()
            }
            _ => None,
        })
    }

    /// The names of its variables, in their order.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.lines.iter().filter_map(|line| match line {
            Line::Variable { name, .. } => Some(String::from_utf8_lossy(name).into_owned()),
            Line::Comment(_) => None,
        })
    }

    /// Sets a variable: where it stands, else at the end. The block is unchanged on an error.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), EnvBlockError> {
        let valid = |b: u8| b.is_ascii_graphic() && b != b'=';
        if name.is_empty()
            || name.starts_with('#')
            || !name.bytes().all(valid)
            || value.contains('\0')
        {
            return Err(EnvBlockError::Variable(format!("{name}={value}")));
        }
        let mut lines = self.lines.clone();
        let new = value.as_bytes().to_vec();
        let old = lines.iter_mut().find_map(|line| match line {
            Line::Variable { name: n, value } if n == name.as_bytes() => Some(value),
            _ => None,
        });
        match old {
            Some(value) => *value = new,
            None => lines.push(Line::Variable {
                name: name.as_bytes().to_vec(),
                value: new,
            }),
        }
        let changed = Self { lines };
        changed.render()?;
        *self = changed;
        Ok(())
    }
}

/// The first line of `text` without its newline, and what follows. `None` when it does not end.
fn split_line(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut at = 0;
    loop {
        match text.get(at)? {
            b'\\' => at += 2,
            b'\n' => return Some((&text[..at], &text[at + 1..])),
            _ => at += 1,
        }
    }
}

fn unescape(value: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(value.len());
    let mut bytes = value.iter();
    while let Some(byte) = bytes.next() {
        let byte = if *byte == b'\\' {
            bytes.next().unwrap_or(byte)
        } else {
            byte
        };
        plain.push(*byte);
    }
    plain
}

fn escape(value: &[u8], into: &mut Vec<u8>) {
    for byte in value {
        if matches!(byte, b'\\' | b'\n') {
            into.push(b'\\');
        }
        into.push(*byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(body: &str) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend_from_slice(body.as_bytes());
        bytes.resize(SIZE, b'#');
        bytes
    }

    #[test]
    fn keeps_what_it_does_not_know_in_its_place() {
        let before =
            block("# WARNING: Do not edit\nsaved_entry=x\\\\y\nmonok8s_default=A\nnext=\\\nz\n");
        let mut env = EnvBlock::parse(&before).unwrap();
        assert_eq!(env.get("saved_entry"), Some("x\\y"));
        assert_eq!(env.get("next"), Some("\nz"));
        env.set("monok8s_default", "B").unwrap();
        env.set("monok8s_trial", "").unwrap();
        let after = block(
            "# WARNING: Do not edit\nsaved_entry=x\\\\y\nmonok8s_default=B\nnext=\\\nz\nmonok8s_trial=\n",
        );
        assert_eq!(env.render().unwrap().to_vec(), after);
    }

    #[test]
    fn refuses_what_is_no_block() {
        let torn_tail = {
            let mut bytes = block("a=b\n");
            bytes[600..610].copy_from_slice(b"monok8s_x=");
            bytes
        };
        let with_nul = {
            let mut bytes = block("a=b\n");
            bytes[512..].fill(0);
            bytes
        };
        let full_of_text = {
            let mut bytes = SIGNATURE.to_vec();
            bytes.resize(SIZE, b'x');
            bytes
        };
        let table: [(&str, Vec<u8>); 10] = [
            ("empty", vec![]),
            ("short", block("a=b\n")[..1023].to_vec()),
            ("long", [block("a=b\n"), vec![b'#']].concat()),
            ("foreign", vec![b'x'; SIZE]),
            ("zeroes", vec![0; SIZE]),
            ("no equals sign", block("ab\nc=d\n")),
            ("no name", block("=d\n")),
            ("the same twice", block("a=1\na=2\n")),
            ("second sector from elsewhere", torn_tail),
            ("second sector lost", with_nul),
        ];
        for (name, bytes) in table {
            assert!(EnvBlock::parse(&bytes).is_err(), "{name}");
        }
        assert!(EnvBlock::parse(&full_of_text).is_err());
    }

    #[test]
    fn a_full_block_stays_as_it_was() {
        let mut env = EnvBlock::default();
        env.set("big", &"y".repeat(SIZE - SIGNATURE.len() - 5))
            .unwrap();
        let before = env.clone();
        assert!(matches!(
            env.set("monok8s_trial", "A"),
            Err(EnvBlockError::Full { .. })
        ));
        assert_eq!(env, before);
        // A block without any padding is a block.
        assert_eq!(EnvBlock::parse(&env.render().unwrap()).unwrap(), env);
    }

    proptest! {
        #[test]
        fn any_variables_round_trip(
            vars in proptest::collection::vec(("[a-z_][a-z0-9_]{0,12}", "[ -~\\n\\\\#é]{0,40}"), 0..12)
        ) {
            let mut env = EnvBlock::default();
            for (name, value) in &vars {
                env.set(name, value).unwrap();
            }
            let block = env.render().unwrap();
            let again = EnvBlock::parse(&block).unwrap();
            prop_assert_eq!(&again, &env);
            for (name, value) in vars.iter().rev() {
                let last = vars.iter().rev().find(|(n, _)| n == name).unwrap();
                if last.1 == *value {
                    prop_assert_eq!(again.get(name), Some(value.as_str()));
                }
            }
        }

        #[test]
        fn any_accepted_block_renders_to_itself(body in proptest::collection::vec(
            prop_oneof![Just(b'#'), Just(b'='), Just(b'\n'), Just(b'\\'), Just(b'a'), any::<u8>()], 0..SIZE)
        ) {
            let mut bytes = SIGNATURE.to_vec();
            bytes.extend_from_slice(&body);
            bytes.resize(SIZE, b'#');
            if let Ok(env) = EnvBlock::parse(&bytes) {
                // A needless backslash is dropped and its room becomes padding; apart from that, every byte stays.
                let rendered = env.render().unwrap();
                prop_assert_eq!(EnvBlock::parse(&rendered).unwrap(), env);
                if !body.contains(&b'\\') {
                    prop_assert_eq!(&rendered[..], &bytes[..]);
                }
            }
        }
    }
}
