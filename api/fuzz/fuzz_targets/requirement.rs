//! No text makes the requirement's parser panic, and what was read means the same when written.
//! The input is a requirement, a line break, and a version.
#![no_main]

use libfuzzer_sys::fuzz_target;
use monok8s_api::{Version, version::VersionRequirement};

fuzz_target!(|text: &str| {
    let (requirement, version) = text.split_once('\n').unwrap_or((text, "v1.35.1"));
    let version = version.parse::<Version>();
    let Ok(requirement) = requirement.parse::<VersionRequirement>() else {
        return;
    };
    let written = requirement.to_string();
    let again: VersionRequirement = written.parse().expect("what is written can be read");
    assert_eq!(again, requirement);
    if let Ok(version) = version {
        assert_eq!(requirement.is_met_by(&version), again.is_met_by(&version));
        let read: Version = version.to_string().parse().expect("what is written can be read");
        assert_eq!(read, version);
    }
});
