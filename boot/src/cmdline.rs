//! The kernel's command line: what the boot loader said it would start.

use std::path::PathBuf;

use uuid::Uuid;

use crate::slot::SlotName;

/// What the command line says about the slot. Words after a lone `--` are the first process's and do not count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// `root=`; of several the last, as for the kernel.
    pub root: Option<RootArgument>,
    /// Every `monok8s.slot=`, as written.
    pub slots: Vec<String>,
    /// `monok8s.trial=1` or `monok8s.trial=0`; `None` when it says neither.
    pub trial: Option<bool>,
}

/// The value of `root=` (`Documentation/admin-guide/kernel-parameters` and `init/do_mounts.c` in the kernel's sources).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootArgument {
    /// `PARTUUID=…`, with the number of partitions to count on from it (`/PARTNROFF=…`).
    PartUuid(Uuid, i64),
    /// `PARTLABEL=…`
    PartLabel(String),
    /// `/dev/…`
    Path(PathBuf),
    /// Anything else. It cannot tell one slot from the other: a file system's UUID or label is in both.
    Other(String),
}

impl CommandLine {
    /// Reads `/proc/cmdline`.
    pub fn parse(text: &str) -> Self {
        let mut line = Self::default();
        for word in words(text) {
            if word == "--" {
                break;
            }
            let Some((key, value)) = word.split_once('=') else {
                continue;
            };
            match key {
                "root" => line.root = Some(RootArgument::parse(value)),
                "monok8s.slot" => line.slots.push(value.to_owned()),
                "monok8s.trial" => {
                    line.trial = match value {
                        "1" => Some(true),
                        "0" => Some(false),
                        _ => None,
                    }
                }
                _ => {}
            }
        }
        line
    }

    /// The slot that `monok8s.slot=` names: `Ok(None)` when it is not there; an error text when it is no slot's name,
    /// or names both.
    pub fn slot(&self) -> Result<Option<SlotName>, String> {
        let mut named = None;
        for text in &self.slots {
            let slot: SlotName = text
                .parse()
                .map_err(|e| format!("the kernel command line has monok8s.slot={text}: {e}"))?;
            if named.is_some_and(|n| n != slot) {
                return Err("the kernel command line has monok8s.slot= for both slots".to_owned());
            }
            named = Some(slot);
        }
        Ok(named)
    }
}

impl RootArgument {
    fn parse(value: &str) -> Self {
        if let Some(rest) = value.strip_prefix("PARTUUID=") {
            let (uuid, offset) = rest.split_once("/PARTNROFF=").unwrap_or((rest, "0"));
            if let (Ok(uuid), Ok(offset)) = (Uuid::try_parse(uuid), offset.parse()) {
                return Self::PartUuid(uuid, offset);
            }
        } else if let Some(label) = value.strip_prefix("PARTLABEL=") {
            return Self::PartLabel(label.to_owned());
        } else if value.starts_with("/dev/") {
            return Self::Path(PathBuf::from(value));
        }
        Self::Other(value.to_owned())
    }
}

/// What the shipped boot loader configurations put on the kernel's command line, as a virtual node's firmware
/// writes it. `root` is the address of the root, such as `PARTUUID=…`.
pub fn kernel_words(slot: SlotName, trial: bool, root: &str) -> String {
    format!(
        "root={root} monok8s.slot={slot} monok8s.trial={} ro panic=10",
        u8::from(trial)
    )
}

/// The words of a command line; double quotes keep spaces together and are dropped.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quoted, mut begun) = (String::new(), false, false);
    for c in text.chars() {
        match c {
            '"' => (quoted, begun) = (!quoted, true),
            c if c.is_whitespace() && !quoted => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            c => {
                word.push(c);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_grub_passes() {
        let uuid = "aaaaaaaa-0000-4000-8000-00000000000a";
        let line = CommandLine::parse(&kernel_words(
            SlotName::B,
            true,
            &format!("PARTUUID={uuid}"),
        ));
        assert_eq!(
            line.root,
            Some(RootArgument::PartUuid(uuid.parse().unwrap(), 0))
        );
        assert_eq!(line.slot(), Ok(Some(SlotName::B)));
        assert_eq!(line.trial, Some(true));
    }

    #[test]
    fn table() {
        let root = |text: &str| CommandLine::parse(text).root;
        let uuid: Uuid = "aaaaaaaa-0000-4000-8000-00000000000a".parse().unwrap();
        let label = |l: &str| Some(RootArgument::PartLabel(l.to_owned()));
        assert_eq!(root(""), None);
        assert_eq!(root("root=PARTLABEL=a root=PARTLABEL=b\n"), label("b"));
        assert_eq!(root("\"root=PARTLABEL=with space\""), label("with space"));
        assert_eq!(root("quiet root=PARTLABEL=\"x y\" z"), label("x y"));
        assert_eq!(
            root(&format!("root=PARTUUID={uuid}/PARTNROFF=1")),
            Some(RootArgument::PartUuid(uuid, 1))
        );
        assert_eq!(
            root("root=/dev/vda2"),
            Some(RootArgument::Path("/dev/vda2".into()))
        );
        assert_eq!(
            root("root=UUID=1234"),
            Some(RootArgument::Other("UUID=1234".into()))
        );
        assert_eq!(
            root("root=PARTUUID=nonsense"),
            Some(RootArgument::Other("PARTUUID=nonsense".into()))
        );
        assert_eq!(root("a -- root=/dev/sda1"), None);

        let slot = |text: &str| CommandLine::parse(text).slot();
        assert_eq!(slot("quiet"), Ok(None));
        assert_eq!(slot("monok8s.slot=A monok8s.slot=A"), Ok(Some(SlotName::A)));
        assert!(slot("monok8s.slot=A monok8s.slot=B").is_err());
        assert!(slot("monok8s.slot=a").is_err());
        assert_eq!(slot("x -- monok8s.slot=A"), Ok(None));
        for (text, trial) in [
            ("monok8s.trial=0", Some(false)),
            ("monok8s.trial=1", Some(true)),
            ("monok8s.trial=", None),
            ("quiet", None),
            ("x -- monok8s.trial=0", None),
        ] {
            assert_eq!(CommandLine::parse(text).trial, trial, "{text}");
        }
    }
}
