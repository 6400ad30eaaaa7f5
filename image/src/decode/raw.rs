//! An image that is not compressed.

use super::{FrameHeader, Step};

const HEADER: FrameHeader = FrameHeader {
    window: 0,
    content: None,
    checksum: false,
};

/// See [`super::Decoder`].
#[derive(Default)]
pub(super) struct Raw {
    begun: bool,
}

impl Raw {
    pub(super) fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Step {
        if !self.begun && !input.is_empty() {
            self.begun = true;
            return Step {
                frame: Some(HEADER),
                ..Step::default()
            };
        }
        let length = input.len().min(output.len());
        output[..length].copy_from_slice(&input[..length]);
        Step {
            consumed: length,
            produced: length,
            ..Step::default()
        }
    }
}
