//! `ctl image inspect`.

use monok8s_image::{InspectError, Inspection, SeekTable};
use serde::Serialize;

use super::{
    ImageError, InspectArgs,
    bar::Bar,
    look::{self, Sparse},
    source::Shown,
};
use crate::answer::Answer;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    source: String,
    /// zstd, gzip, xz or uncompressed, told by the content.
    format: String,
    file_bytes: u64,
    file_checksum: String,
    image_bytes: u64,
    image_checksum: String,
    frames: u64,
    largest_frame: u64,
    window: u64,
    /// Of the zstd seekable format: none, right or wrong.
    seek_table: &'static str,
    /// Decoded on several cores, and resumed after a crash.
    packed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version_unknown: Option<String>,
}

pub(super) fn inspect(args: &InspectArgs) -> Result<Answer, ImageError> {
    let opened = args.source.open(&args.fetch)?;
    let kept = tempfile::NamedTempFile::new().map_err(ImageError::Scratch)?;
    let mut image = Sparse::new(kept.reopen().map_err(ImageError::Scratch)?);
    let bar = Bar::new("reading", opened.length);
    let mut bytes = Shown {
        bytes: opened.bytes,
        bar: &bar,
        done: 0,
    };
    let found = monok8s_image::inspect(&mut bytes, args.window_limit, &mut image);
    drop(bar);
    let found = match found {
        Ok(found) => found,
        Err(InspectError::Read { error, .. }) => {
            return Err(ImageError::Read {
                source_: args.source.to_string(),
                cause: error,
            });
        }
        Err(InspectError::Write { error, .. }) => return Err(ImageError::Scratch(error)),
        // It was read, and it is none.
        Err(error @ InspectError::Stream { .. }) => return Ok(no(args, &error)),
    };
    image.finish().map_err(ImageError::Scratch)?;
    let version = look::version(kept.path(), &args.keys.version_key, &[]);
    let report = report(args, &found, version);
    // A table that lies serves nobody.
    let good = found.seek_table != SeekTable::Wrong;
    Ok(Answer::new(args.output, good, &report, text))
}

fn no(args: &InspectArgs, error: &InspectError) -> Answer {
    #[derive(Serialize)]
    struct No {
        source: String,
        error: String,
    }
    let no = No {
        source: args.source.to_string(),
        error: error.to_string(),
    };
    Answer::new(args.output, false, &no, |no| {
        format!(
            "{} is no image that can be installed: {}\n",
            no.source, no.error
        )
    })
}

fn report(args: &InspectArgs, found: &Inspection, version: Result<String, String>) -> Report {
    let (version, version_unknown) = match version {
        Ok(version) => (Some(version), None),
        Err(why) => (None, Some(why)),
    };
    Report {
        source: args.source.to_string(),
        format: found.format.to_string(),
        file_bytes: found.file_bytes,
        file_checksum: found.file_digest.to_string(),
        image_bytes: found.image_bytes,
        image_checksum: found.image_digest.to_string(),
        frames: found.frames,
        largest_frame: found.largest_frame,
        window: found.window,
        seek_table: match found.seek_table {
            SeekTable::None => "none",
            SeekTable::Right => "right",
            SeekTable::Wrong => "wrong",
        },
        packed: found.frames > 1
            && found.complete_frames == found.frames
            && found.largest_frame <= 4 << 20,
        version,
        version_unknown,
    }
}

fn text(report: &Report) -> String {
    let version = match (&report.version, &report.version_unknown) {
        (Some(version), _) => version.clone(),
        (None, Some(why)) => format!("not known: {why}"),
        (None, None) => String::new(),
    };
    let packed = if report.packed {
        "decoded on up to three cores, resumed after a crash"
    } else {
        "decoded on one core, begun again after a crash; `ctl image pack` makes it otherwise"
    };
    format!(
        "{}\n  version     {version}\n  format      {}\n  file        {} bytes, {}\n  image       {} bytes, {}\n  frames      {}, the largest {} bytes, \
         window {} bytes\n  seek table  {}\n  {packed}\n",
        report.source,
        report.format,
        report.file_bytes,
        report.file_checksum,
        report.image_bytes,
        report.image_checksum,
        report.frames,
        report.largest_frame,
        report.window,
        report.seek_table,
    )
}
