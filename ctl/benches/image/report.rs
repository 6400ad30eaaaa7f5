//! What is printed, and what is put into docs/.

use std::{fmt::Write as _, fs, path::Path, thread};

use serde_json::Value;

use super::{Files, IMAGE, Runs};

/// The plot, beside docs/benchmarks.md.
const PLOT: &str = "image-stages.svg";

pub(crate) fn table(runs: &[Runs], files: &Files) -> String {
    let [s1, s2, ..] = runs else {
        panic!("two pipelines and ours");
    };
    let (s1, s2) = (s1.median(), s2.median());
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let mut text = format!(
        "{cores} cores; an image of {IMAGE} bytes, {} as one frame, {} packed; medians of {} alternating runs.\n\n\
         | | median | of S1 | of S2 | all runs | peak memory |\n|---|---|---|---|---|---|\n",
        files.single_bytes,
        files.multi_bytes,
        runs[0].seconds.len()
    );
    for run in runs {
        let median = run.median();
        let all: Vec<_> = run.seconds.iter().map(|s| format!("{s:.2}")).collect();
        let memory = match run.memory {
            0 => String::new(),
            bytes => format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20)),
        };
        let _ = writeln!(
            text,
            "| {} | {median:.2} s | {:.2} | {:.2} | {} | {memory} |",
            run.what,
            median / s1,
            median / s2,
            all.join(" "),
        );
    }
    text
}

/// The work of a stage in the last round.
struct Stage {
    name: String,
    seconds: f64,
    rate: f64,
}

fn stages(run: &Runs) -> Vec<Stage> {
    let read = |stage: &Value| {
        let (bytes, seconds) = (stage["bytes"].as_f64()?, stage["seconds"].as_f64()?);
        (bytes > 0.0 && seconds > 0.0).then(|| Stage {
            name: stage["stage"].as_str().unwrap_or_default().to_owned(),
            seconds,
            rate: bytes / seconds / 1e6,
        })
    };
    let all = run.stages.as_array();
    all.into_iter().flatten().filter_map(read).collect()
}

/// The stages of each run that says what they did, to be printed.
pub(crate) fn stage_lines(runs: &[Runs]) -> String {
    let mut text = String::new();
    for run in runs.iter().filter(|run| !run.stages.is_null()) {
        let whole = run.seconds.last().copied().unwrap_or_default();
        let _ = writeln!(text, "\n{} (last run, {whole:.2} s):", run.what);
        for stage in stages(run) {
            let _ = writeln!(
                text,
                "{:>12} {:7.0} MB/s {:6.2} s busy {:6.2} s waiting",
                stage.name,
                stage.rate,
                stage.seconds,
                (whole - stage.seconds).max(0.0)
            );
        }
    }
    text
}

const WIDTH: f64 = 860.0;
const LEFT: f64 = 100.0;
const BARS: f64 = 520.0;
const LINE: f64 = 22.0;

/// Bars of the time in which each stage was busy, on the time that the whole took; its throughput beside it.
fn plot(runs: &[Runs]) -> String {
    let shown: Vec<_> = runs.iter().filter(|run| !run.stages.is_null()).collect();
    let longest = shown.iter().filter_map(|run| run.seconds.last().copied());
    let scale = BARS / longest.fold(f64::MIN_POSITIVE, f64::max);
    let mut body = String::new();
    let mut y = 24.0;
    for run in shown {
        let whole = run.seconds.last().copied().unwrap_or_default();
        let _ = writeln!(
            body,
            r#"<text x="{LEFT}" y="{y}" font-weight="bold">{}: {whole:.2} s</text>"#,
            run.what
        );
        y += 10.0;
        for stage in stages(run) {
            let (text, busy) = (y + 13.0, stage.seconds * scale);
            let (all, label) = (whole * scale, LEFT + whole.max(stage.seconds) * scale + 8.0);
            let _ = writeln!(
                body,
                r##"<text x="{name:.0}" y="{text:.0}" text-anchor="end">{}</text>
<rect x="{LEFT}" y="{y:.0}" width="{all:.1}" height="16" fill="#e3e6ea"/>
<rect x="{LEFT}" y="{y:.0}" width="{busy:.1}" height="16" fill="#3b6ea5"/>
<text x="{label:.0}" y="{text:.0}">{:.0} MB/s, {:.2} s</text>"##,
                stage.name,
                stage.rate,
                stage.seconds,
                name = LEFT - 8.0,
            );
            y += LINE;
        }
        y += 30.0;
    }
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0} {y:.0}" font-family="sans-serif" font-size="13">
<rect width="100%" height="100%" fill="white"/>
{body}</svg>
"#
    )
}

/// Between the two marks of docs/benchmarks.md, and the plot beside it.
pub(crate) fn put(table: &str, runs: &[Runs]) {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let path = docs.join("benchmarks.md");
    let page = fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- image: begin -->\n", "<!-- image: end -->");
    let (before, rest) = page.split_once(begin).unwrap();
    let (_, after) = rest.split_once(end).unwrap();
    fs::write(docs.join(PLOT), plot(runs)).unwrap();
    let shown = format!(
        "Throughput of each stage in the last round. Blue is the time in which it was busy, grey that in which it waited for \
         another stage;\nthey run side by side.\n\n![Each stage's busy time and throughput]({PLOT})\n"
    );
    let page = format!("{before}{begin}\n{table}\n{shown}\n{end}{after}");
    fs::write(&path, page).unwrap();
    eprintln!("written to {}", path.display());
}
