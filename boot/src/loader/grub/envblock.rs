//! GRUB's environment block: 1024 bytes of `name=value` lines.

/// An environment block: its variables in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvBlock {
    entries: Vec<(String, String)>,
}

impl EnvBlock {
    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.entries
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }
}
