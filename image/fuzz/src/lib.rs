//! What must hold of the decoder for any bytes. Shared by the fuzz target and by the test that walks its seeds.

use monok8s_image::{Decoder, StreamError};

/// Small enough that a fuzzer's memory limit is not what stops it.
const WINDOW_LIMIT: u64 = 8 << 20;

/// Expanded bytes after which a run ends, so that a bomb costs no time.
const ENOUGH: usize = 1 << 20;

/// The first byte chooses the portions, the rest is the file.
///
/// # Panics
///
/// When the decoder breaks a promise: it goes beyond its buffers, does not come to an end, accepts a window over the
/// limit, or makes something else of the same file when it comes in other portions.
pub fn decoder(data: &[u8]) {
    let Some((&portions, file)) = data.split_first() else {
        return;
    };
    let whole = decode(file, file.len().max(1), 64 << 10);
    let input = usize::from(portions & 0x0F) + 1;
    let output = (usize::from(portions >> 4) + 1) * 37;
    let by_portions = decode(file, input, output);
    // Where enough was made in one way, the other may have met damage beyond it first.
    if whole != Outcome::Enough && by_portions != Outcome::Enough {
        assert_eq!(whole, by_portions, "{input} and {output} at a time");
    }
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Image(Vec<u8>),
    Enough,
    /// The words may depend on where a portion ends; the kind may not.
    Refused(std::mem::Discriminant<StreamError>),
}

fn decode(file: &[u8], input: usize, output: usize) -> Outcome {
    match try_decode(file, input, output) {
        Ok(Some(image)) => Outcome::Image(image),
        Ok(None) => Outcome::Enough,
        Err(error) => {
            if let StreamError::WindowTooLarge { window, limit } = error {
                assert!(window > limit && limit == WINDOW_LIMIT);
            }
            Outcome::Refused(std::mem::discriminant(&error))
        }
    }
}

fn try_decode(file: &[u8], input: usize, output: usize) -> Result<Option<Vec<u8>>, StreamError> {
    let Ok(mut decoder) = Decoder::new(WINDOW_LIMIT) else {
        return Ok(None);
    };
    let mut buffer = vec![0; output];
    let mut image = Vec::new();
    for mut portion in file.chunks(input) {
        loop {
            let step = decoder.decode(portion, &mut buffer)?;
            assert!(step.consumed <= portion.len() && step.produced <= output);
            if let Some(header) = step.frame {
                assert!(header.window <= WINDOW_LIMIT);
            }
            portion = &portion[step.consumed..];
            image.extend_from_slice(&buffer[..step.produced]);
            if image.len() > ENOUGH {
                return Ok(None);
            }
            if step.frame.is_none() && !step.ended && step.produced < output {
                assert!(portion.is_empty(), "it stopped with room and input left");
                break;
            }
        }
    }
    decoder.finish()?;
    Ok(Some(image))
}
