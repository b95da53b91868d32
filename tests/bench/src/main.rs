//! entrepot beside nginx: starts both on the same content, measures them in turn, writes what it found. Started by
//! `tests/bench/run`, which gives it a network, a mount and a process namespace of its own.
//!
//! ```text
//! main ─► sections/* ─► lab (upstream, servers, sizes) ─► report (results.json, RESULTS.md)
//!             │           ├─ upstream, content   the registry behind, its blobs
//!             │           └─ servers, process    nginx and entrepot
//!             ├─ sink, records, load, client     the clients: cheap ones, and one that checks
//!             └─ machine, figures                processor time and memory; samples and goals
//! ```
//!
//! Everything is bounded in bytes and time. Nothing that is measured is compared with a deadline: a slow result is a
//! result, and only a wrong answer is a failure.

mod client;
mod content;
mod figures;
mod lab;
mod load;
mod machine;
mod process;
mod records;
mod report;
mod sections;
mod seed;
mod servers;
mod sink;
mod upstream;

use std::path::PathBuf;
use std::process::ExitCode;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;
use tokio::task::LocalSet;

use crate::lab::{Lab, Options};
use crate::report::Report;
use crate::sections::SECTIONS;

/// Any error; every one says what was being done.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A connection is a file here and one in the server.
const OPEN_FILES: u64 = 20_000;
const USAGE: &str = "tests/bench/run [--quick] [--rounds N] [--list] [SECTION …]

--quick     small sizes and 3 rounds, for developing; results go to target/bench/quick, not beside the committed ones
--rounds N  rounds for each figure (5)
--list      show the sections

Without a section all are run, in about half an hour.";

struct Arguments {
    options: Options,
    sections: Vec<&'static str>,
    command: String,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("entrepot-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), BoxError> {
    let Some(arguments) = read_arguments(std::env::args().skip(1))? else { return Ok(()) };
    let place = |name: &str| {
        let value = std::env::var_os(name).map(PathBuf::from);
        value.ok_or_else(|| format!("{name} is not set: start the benchmarks by tests/bench/run"))
    };
    let (binary, scratch, results) = (place("BENCH_ENTREPOT")?, place("BENCH_SCRATCH")?, place("BENCH_RESULTS")?);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(OPEN_FILES), hard.max(OPEN_FILES))
        .map_err(|error| format!("{OPEN_FILES} open files are needed, the limit is {hard}: {error}"))?;

    let mut report = Report::open(&results, SECTIONS.iter().map(|(name, _)| *name).collect())?;
    let lab = Lab::new(arguments.options.clone(), binary, scratch)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut failed = Vec::new();
    for section in &arguments.sections {
        println!("{section}");
        let mut circumstances = machine::description(&lab.binary);
        let measured = LocalSet::new().block_on(&runtime, sections::run(section, &lab));
        lab.upstream.limit(None);
        match measured {
            Ok(measured) => {
                circumstances["load_average_after"] = json!(machine::load_average());
                circumstances["rounds"] = json!(arguments.options.rounds);
                circumstances["quick"] = json!(arguments.options.quick);
                circumstances["command"] = json!(arguments.command);
                report.add(section, measured, circumstances)?;
            }
            // The others are still worth having.
            Err(error) => {
                eprintln!("{section} failed: {error}");
                failed.push(*section);
            }
        }
    }
    println!("{}", report.page_path().display());
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", ")).into()) }
}

/// `None` where only something was to be shown.
fn read_arguments(given: impl Iterator<Item = String>) -> Result<Option<Arguments>, BoxError> {
    let mut command = "tests/bench/run".to_owned();
    let mut options = Options { quick: false, rounds: 0 };
    let mut sections = Vec::new();
    let mut given = given.inspect(|word| {
        command.push(' ');
        command.push_str(word);
    });
    while let Some(word) = given.next() {
        match word.as_str() {
            "--help" | "-h" => {
                println!("{USAGE}");
                return Ok(None);
            }
            "--list" => {
                SECTIONS.iter().for_each(|(name, what)| println!("{name:14}{what}"));
                return Ok(None);
            }
            "--quick" => options.quick = true,
            "--rounds" => {
                let rounds = given.next().and_then(|number| number.parse().ok()).filter(|rounds| *rounds > 0);
                options.rounds = rounds.ok_or("--rounds takes a number from 1")?;
            }
            word => {
                let section = SECTIONS.iter().find(|(name, _)| *name == word);
                let (name, _) = section.ok_or_else(|| format!("there is no section or option {word:?}\n\n{USAGE}"))?;
                sections.push(*name);
            }
        }
    }
    drop(given);
    if options.rounds == 0 {
        options.rounds = if options.quick { 3 } else { 5 };
    }
    if sections.is_empty() {
        sections = SECTIONS.iter().map(|(name, _)| *name).collect();
    }
    Ok(Some(Arguments { options, sections, command }))
}
