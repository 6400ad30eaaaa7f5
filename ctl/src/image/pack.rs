//! `ctl image pack`.

use std::{
    fs::{self, File},
    io::{BufWriter, Read as _, Seek as _, Write as _},
    ops::ControlFlow,
    path::Path,
};

use monok8s_api::Version;
use monok8s_image::Format;
use serde::Serialize;

use super::{ImageError, PackArgs, bar::Bar, look};
use crate::answer::Answer;

/// One entry of a catalog.
#[derive(Debug, Serialize)]
struct Entry {
    version: String,
    url: String,
    checksum: String,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<String>,
}

pub(super) fn pack(args: &PackArgs) -> Result<Answer, ImageError> {
    if !args.force && fs::exists(&args.output).unwrap_or(true) {
        return Err(ImageError::Exists {
            path: args.output.clone(),
        });
    }
    let opened = |cause| ImageError::Open {
        path: args.image.clone(),
        cause,
    };
    let mut image = File::open(&args.image).map_err(opened)?;
    let length = image.metadata().map_err(opened)?.len();
    plain(&image, &args.image)?;
    let version = version(args)?;

    let created = |cause| ImageError::Create {
        path: args.output.clone(),
        cause,
    };
    // Under another name until it is whole.
    let mut part_name = args.output.file_name().unwrap_or_default().to_owned();
    part_name.push(".part");
    let part = args.output.with_file_name(part_name);
    let guard = Unfinished(&part);
    let mut file = BufWriter::with_capacity(1 << 20, File::create(&part).map_err(created)?);
    let bar = Bar::new("packing", Some(length));
    let packed = monok8s_image::pack(&mut image, &mut file, args.level, &mut |done| {
        bar.at(done);
        ControlFlow::Continue(())
    })
    .map_err(|cause| ImageError::Pack {
        path: args.image.clone(),
        cause,
    })?;
    drop(bar);
    file.flush()
        .and_then(|()| file.get_ref().sync_all())
        .map_err(created)?;
    fs::rename(&part, &args.output).map_err(created)?;
    drop(guard);

    let name = args
        .output
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let entry = Entry {
        version,
        url: (args.url.clone()).unwrap_or_else(|| format!("https://example.invalid/{name}")),
        // Of the image: a resumed installation is then proven by its read-back alone.
        checksum: packed.image_digest.to_string(),
        size: packed.image_bytes,
        platform: args.platform.clone(),
    };
    Ok(Answer::new(args.format, true, &entry, |entry| {
        yaml(entry, args.url.is_none())
    }))
}

/// What is packed twice, or is no image, nobody could install.
fn plain(image: &File, path: &Path) -> Result<(), ImageError> {
    let opened = |cause| ImageError::Open {
        path: path.to_path_buf(),
        cause,
    };
    let (mut image, mut head) = (image, Vec::new());
    (image.take(4096).read_to_end(&mut head))
        .and_then(|_| image.rewind())
        .map_err(opened)?;
    let what = match Format::of(&head) {
        Ok(Format::Raw) => return Ok(()),
        Ok(format) => format!("it is {format} already"),
        Err(error) => error.to_string(),
    };
    Err(ImageError::NotPlain {
        path: path.to_path_buf(),
        what,
    })
}

/// Removes what is not whole.
struct Unfinished<'a>(&'a Path);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        // Gone when it was renamed.
        let _ = fs::remove_file(self.0);
    }
}

/// As in a catalog: with the v.
fn version(args: &PackArgs) -> Result<String, ImageError> {
    let unknown = |cause| ImageError::VersionUnknown { cause };
    if let Some(version) = &args.image_version {
        return Ok(version.to_string());
    }
    let said = look::version(&args.image, &args.keys.version_key, &[]).map_err(unknown)?;
    let version: Version = said
        .parse()
        .map_err(|error| unknown(format!("its os-release says {said:?}: {error}")))?;
    Ok(version.to_string())
}

/// To be put under `images:` of a catalog.
fn yaml(entry: &Entry, to_be_changed: bool) -> String {
    let hint = if to_be_changed {
        " # where you publish it"
    } else {
        ""
    };
    let mut text = format!(
        "- version: {}\n  url: {}{hint}\n  checksum: {}\n  size: {}\n",
        entry.version, entry.url, entry.checksum, entry.size
    );
    if let Some(platform) = &entry.platform {
        text.push_str("  platform: ");
        text.push_str(platform);
        text.push('\n');
    }
    text
}
