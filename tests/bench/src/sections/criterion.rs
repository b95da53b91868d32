//! The Criterion benches beside the code they are for: parsers and the index. They choose their own number of samples;
//! what is taken over is the median with its interval of confidence.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::BoxError;
use crate::figures::Samples;
use crate::lab::Lab;
use crate::report::Measured;

/// Package and bench.
const BENCHES: [(&str, &str); 2] = [("entrepot-core", "parsers"), ("entrepot-store", "index")];

pub(super) fn run(lab: &Lab) -> Result<Measured, BoxError> {
    let mut measured = Measured::default();
    for (package, bench) in BENCHES {
        let folder = lab.folder("criterion")?;
        let mut command = Command::new("cargo");
        command.args(["bench", "--locked", "--offline", "--quiet", "-p", package, "--bench", bench, "--", "--noplot"]);
        command.args(lab.options.quick.then_some("--quick")).env("CRITERION_HOME", &folder);
        let status = command.status().map_err(|error| format!("cargo could not be started: {error}"))?;
        if !status.success() {
            return Err(format!("cargo bench -p {package} --bench {bench}: {status}").into());
        }
        let mut found = Vec::new();
        estimates(&folder, &mut found)?;
        found.sort();
        for place in &found {
            let (name, samples) = read(place)?;
            measured.reading(&format!("{bench}: {name}"), "ns", &samples);
        }
        if found.is_empty() {
            return Err(format!("cargo bench -p {package} --bench {bench} left no figures").into());
        }
    }
    Ok(measured)
}

/// The folders of the newest figures.
fn estimates(folder: &Path, found: &mut Vec<PathBuf>) -> Result<(), BoxError> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        if entry.file_name() == "new" {
            found.push(entry.path());
        } else {
            estimates(&entry.path(), found)?;
        }
    }
    Ok(())
}

/// The bench's name, and its median between the ends of its interval.
fn read(place: &Path) -> Result<(String, Samples), BoxError> {
    let json = |name: &str| -> Result<Value, BoxError> { Ok(serde_json::from_slice(&fs::read(place.join(name))?)?) };
    let (benchmark, estimates) = (json("benchmark.json")?, json("estimates.json")?);
    let median = &estimates["median"];
    let number = |value: &Value| value.as_f64().ok_or_else(|| format!("{} has no median", place.display()));
    let interval = &median["confidence_interval"];
    let samples = [&interval["lower_bound"], &median["point_estimate"], &interval["upper_bound"]].map(number);
    let name = benchmark["full_id"].as_str().ok_or_else(|| format!("{} has no name", place.display()))?;
    Ok((name.to_owned(), Samples(samples.into_iter().collect::<Result<_, _>>()?)))
}
