//! A boot loader that only the integrator knows: a program of theirs, called with a verb.
//!
//! ```text
//! PROGRAM state               prints lines: default=A|B|  trial=A|B|  a_ok=0|1  b_ok=0|1
//! PROGRAM set default=A trial= a_ok=1 b_ok=0    makes all four so, on disk, at once
//! ```
//!
//! It exits with 0 when it has done so; what it writes to its standard error is shown when it has not. Every `set` is
//! followed by a `state`, whose answer must be what was set.

use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::change::{self, NothingLeft};
use super::{BootLoader, BootState, LoaderError, LoaderKind};
use crate::clock;
use crate::slot::SlotName;

/// How long the program may take.
const LIMIT: Duration = Duration::from_secs(30);

/// More than this nobody has to say.
const MAX_OUTPUT: u64 = 16 << 10;

/// The integrator's program.
#[derive(Clone, Debug)]
pub struct Hook {
    program: PathBuf,
}

/// What came of one call.
struct Answer {
    output: String,
    errors: String,
    success: bool,
    ended: String,
}

impl Hook {
    /// Calls the program at this absolute path.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
        }
    }

    fn change(
        &self,
        to: impl FnOnce(BootState) -> Result<BootState, NothingLeft>,
    ) -> Result<(), LoaderError> {
        let wanted = to(self.state()?).map_err(|e| self.write_error(e.to_string()))?;
        let words = words(wanted);
        let mut arguments = vec!["set"];
        arguments.extend(words.iter().map(String::as_str));
        let answer = self.call(&arguments).map_err(|e| self.write_error(e))?;
        if !answer.success {
            return Err(self.write_error(format!("set {} {}", answer.ended, answer.errors)));
        }
        let now = self.state()?;
        if now == wanted {
            Ok(())
        } else {
            let detail = format!(
                "{} was set, {} is there",
                words.join(" "),
                self::words(now).join(" ")
            );
            Err(LoaderError::ReadBack {
                path: self.program.clone(),
                detail,
            })
        }
    }

    fn call(&self, arguments: &[&str]) -> Result<Answer, String> {
        let mut command = Command::new(&self.program);
        // A process group of its own, so that what it started ends with it when it takes too long.
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command
            .spawn()
            .map_err(|e| format!("it could not be started: {e}"))?;
        let output = drain(child.stdout.take());
        let errors = drain(child.stderr.take());
        let status = wait(&mut child)?;
        Ok(Answer {
            output: output.join().unwrap_or_default(),
            errors: errors.join().unwrap_or_default().trim().to_owned(),
            success: status.success(),
            ended: format!("ended with {status}:"),
        })
    }

    fn unknown(&self, detail: String) -> LoaderError {
        LoaderError::Unknown {
            path: self.program.clone(),
            detail,
        }
    }

    fn write_error(&self, detail: String) -> LoaderError {
        LoaderError::Write {
            path: self.program.clone(),
            detail,
        }
    }
}

/// Reads a pipe to its end on a thread of its own, keeping the beginning: a full pipe would stop the program.
fn drain(pipe: Option<impl std::io::Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let Some(mut pipe) = pipe else {
            return String::new();
        };
        let mut kept = Vec::new();
        let _ = pipe.by_ref().take(MAX_OUTPUT).read_to_end(&mut kept);
        let _ = std::io::copy(&mut pipe, &mut std::io::sink());
        String::from_utf8_lossy(&kept).into_owned()
    })
}

fn wait(child: &mut Child) -> Result<std::process::ExitStatus, String> {
    let begun = clock::since_boot();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if clock::since_boot().saturating_sub(begun) < LIMIT => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(None) => {
                let group = i32::try_from(child.id())
                    .ok()
                    .and_then(rustix::process::Pid::from_raw);
                if let Some(group) = group {
                    let _ =
                        rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
                }
                let _ = child.wait();
                return Err(format!("it did not end within {} s", LIMIT.as_secs()));
            }
            Err(e) => return Err(e.to_string()),
        }
    }
}

fn words(state: BootState) -> [String; 4] {
    let slot = |s: Option<SlotName>| s.map_or("", SlotName::as_str);
    [
        format!("default={}", slot(state.default)),
        format!("trial={}", slot(state.trial)),
        format!("a_ok={}", u8::from(state.a_ok)),
        format!("b_ok={}", u8::from(state.b_ok)),
    ]
}

/// Reads an answer to `state`. All four must be there: a forgotten `ok` must not pass for a good slot.
fn parse(output: &str) -> Result<BootState, String> {
    let value = |key: &str| {
        let mut values = output
            .lines()
            .filter_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
        match (values.next(), values.next()) {
            (Some(value), None) => Ok(value),
            _ => Err(format!("its answer to state must have one line {key}=…")),
        }
    };
    let slot = |key: &str| match value(key)? {
        "" => Ok(None),
        text => text
            .parse()
            .map(Some)
            .map_err(|e| format!("its answer to state has {key}={text}: {e}")),
    };
    let flag = |key: &str| match value(key)? {
        "0" => Ok(false),
        "1" => Ok(true),
        text => Err(format!(
            "its answer to state has {key}={text}, which is neither 0 nor 1"
        )),
    };
    Ok(BootState {
        default: slot("default")?,
        trial: slot("trial")?,
        a_ok: flag("a_ok")?,
        b_ok: flag("b_ok")?,
    })
}

impl BootLoader for Hook {
    fn kind(&self) -> LoaderKind {
        LoaderKind::Hook
    }

    fn state(&self) -> Result<BootState, LoaderError> {
        let answer = self.call(&["state"]).map_err(|e| self.unknown(e))?;
        if !answer.success {
            return Err(self.unknown(format!("state {} {}", answer.ended, answer.errors)));
        }
        parse(&answer.output).map_err(|e| self.unknown(e))
    }

    fn mark_unbootable(&self, slot: SlotName) -> Result<(), LoaderError> {
        self.change(|state| change::never(state, slot))
    }

    fn try_once(&self, slot: SlotName) -> Result<(), LoaderError> {
        self.change(|state| change::once(state, slot))
    }

    fn mark_good(&self, slot: SlotName) -> Result<(), LoaderError> {
        self.change(|state| Ok(change::always(state, slot)))
    }

    fn mark_bad(&self, slot: SlotName) -> Result<(), LoaderError> {
        self.change(|state| change::never(state, slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reason;
    use std::os::unix::fs::PermissionsExt as _;

    /// A program that keeps the four lines in a file.
    const KEEPS: &str = "#!/bin/sh\nd=$(dirname \"$0\")\ncase $1 in\nstate) cat \"$d/vars\" ;;\n\
        set) shift; for v; do echo \"$v\"; done > \"$d/vars\" ;;\nesac\n";

    fn hook(script: &str, vars: &str) -> (tempfile::TempDir, Hook) {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("hook");
        // Copied by another process: this one may be forked by another test while the file is open for writing, and
        // a program that anybody has open for writing cannot be started.
        std::fs::write(dir.path().join("text"), script).unwrap();
        let copied = Command::new("cp")
            .arg(dir.path().join("text"))
            .arg(&program)
            .status()
            .unwrap();
        assert!(copied.success());
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(dir.path().join("vars"), vars).unwrap();
        (dir, Hook::new(program))
    }

    const FRESH: &str = "default=A\ntrial=\na_ok=1\nb_ok=0\n";

    #[test]
    fn a_trial_and_its_confirmation() {
        let (_dir, hook) = hook(KEEPS, FRESH);
        hook.mark_unbootable(SlotName::B).unwrap();
        hook.try_once(SlotName::B).unwrap();
        let expected = BootState {
            default: Some(SlotName::A),
            trial: Some(SlotName::B),
            a_ok: true,
            b_ok: true,
        };
        assert_eq!(hook.state().unwrap(), expected);
        hook.mark_good(SlotName::B).unwrap();
        assert_eq!(hook.state().unwrap().default, Some(SlotName::B));
        hook.mark_bad(SlotName::A).unwrap();
        assert!(!hook.state().unwrap().a_ok);
        assert_eq!(
            hook.mark_bad(SlotName::B).unwrap_err().reason(),
            Reason::BootSwitchFailed
        );
    }

    #[test]
    fn a_program_that_forgets_is_found_out() {
        let forgets = "#!/bin/sh\ncase $1 in state) cat \"$(dirname \"$0\")/vars\" ;; esac\n";
        let (_dir, hook) = hook(forgets, FRESH);
        let error = hook.try_once(SlotName::B).unwrap_err();
        assert!(matches!(error, LoaderError::ReadBack { .. }), "{error}");
        assert!(error.to_string().contains("trial=B"), "{error}");
    }

    #[test]
    fn what_it_says_when_it_fails_is_shown() {
        let fails = "#!/bin/sh\ncase $1 in state) cat \"$(dirname \"$0\")/vars\" ;; *) echo no efivars >&2; exit 3 ;; esac\n";
        let (_dir, hook) = hook(fails, FRESH);
        let error = hook.try_once(SlotName::B).unwrap_err();
        assert_eq!(error.reason(), Reason::BootSwitchFailed);
        assert!(
            error.to_string().contains("exit status: 3")
                && error.to_string().contains("no efivars"),
            "{error}"
        );
        let missing = Hook::new("/nonexistent").state().unwrap_err();
        assert_eq!(missing.reason(), Reason::BootLoaderUnknown);
    }

    #[test]
    fn an_answer_must_be_whole() {
        assert!(parse(FRESH).is_ok());
        let table = [
            "",
            "default=A\ntrial=\na_ok=1\n",
            "default=A\ntrial=\na_ok=1\nb_ok=yes\n",
            "default=C\ntrial=\na_ok=1\nb_ok=1\n",
            "default=A\ndefault=B\ntrial=\na_ok=1\nb_ok=1\n",
        ];
        for answer in table {
            assert!(parse(answer).is_err(), "{answer:?}");
        }
    }
}
