//! What was measured, on paper: results.json accumulates section by section, RESULTS.md is written from it alone.
//!
//! A section that is run again replaces its own figures and no others; each keeps the date, machine and command that it
//! was measured with.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::BoxError;
use crate::figures::{GOALS, Goal, Samples, number};

/// The figures of one section's run.
#[derive(Default)]
pub(crate) struct Measured {
    goals: Map<String, Value>,
    readings: Vec<Value>,
}

/// Where results lie.
pub(crate) struct Report {
    directory: PathBuf,
    /// Names of the sections, in the order of the page.
    sections: Vec<&'static str>,
    results: Map<String, Value>,
}

impl Measured {
    /// A figure that has a row in the table of goals.
    pub(crate) fn goal(&mut self, key: &str, samples: &Samples) {
        println!("  {key}: {}", spread(samples.median(), samples.min(), samples.max()));
        self.goals.insert(key.to_owned(), samples.json());
    }

    /// A row that could not be measured, and why.
    pub(crate) fn missing(&mut self, key: &str, reason: &str) {
        println!("  {key}: not measured: {reason}");
        self.goals.insert(key.to_owned(), json!({ "missing": reason }));
    }

    /// A figure for information.
    pub(crate) fn reading(&mut self, what: &str, unit: &str, samples: &Samples) {
        println!("  {what}: {} {unit}", spread(samples.median(), samples.min(), samples.max()));
        let mut value = samples.json();
        value["what"] = what.into();
        value["unit"] = unit.into();
        self.readings.push(value);
    }
}

impl Report {
    /// Takes up what an earlier run left in `directory`.
    pub(crate) fn open(directory: &Path, sections: Vec<&'static str>) -> Result<Self, BoxError> {
        fs::create_dir_all(directory)?;
        let results = match fs::read(directory.join("results.json")) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| format!("{}/results.json is not ours, remove it: {error}", directory.display()))?,
            Err(_) => Map::new(),
        };
        Ok(Self { directory: directory.to_owned(), sections, results })
    }

    /// Takes over a section's figures and writes both files.
    pub(crate) fn add(&mut self, section: &str, measured: Measured, circumstances: Value) -> Result<(), BoxError> {
        let value = json!({ "circumstances": circumstances, "goals": measured.goals, "readings": measured.readings });
        self.results.insert(section.to_owned(), value);
        fs::write(self.directory.join("results.json"), serde_json::to_string_pretty(&self.results)? + "\n")?;
        fs::write(self.directory.join("RESULTS.md"), self.page())?;
        Ok(())
    }

    /// Where the page is.
    pub(crate) fn page_path(&self) -> PathBuf {
        self.directory.join("RESULTS.md")
    }

    fn page(&self) -> String {
        let mut page = "# entrepot beside nginx\n\n\
            Written by `tests/bench/run` from `results.json`; [README.md](README.md) says how each figure is taken.\n\
            Medians of all rounds, with the smallest and the largest. A ratio is taken within one round, entrepot over\n\
            the other, and \"missed by\" is the distance from the target in percent of it.\n\n\
            | figure | target | median | min .. max | verdict |\n|---|---|---|---|---|\n"
            .to_owned();
        for goal in GOALS {
            let row = self.row(goal);
            let _ = writeln!(page, "| {} | {} | {row} |", goal.figure, goal.target());
        }
        // Why what was missed was missed, and what was tried: written by people.
        if let Ok(notes) = fs::read_to_string(self.directory.join("NOTES.md")) {
            let _ = write!(page, "\n{notes}");
        }
        for (name, section) in self.sections.iter().filter_map(|name| Some((name, self.results.get(*name)?))) {
            let _ = write!(page, "\n## {name}\n\n{}\n", circumstances(&section["circumstances"]));
            let readings = section["readings"].as_array().map(Vec::as_slice).unwrap_or_default();
            if !readings.is_empty() {
                page.push_str("\n| reading | unit | median | min .. max |\n|---|---|---|---|\n");
            }
            for reading in readings {
                let text = |key: &str| reading[key].as_str().unwrap_or_default().to_owned();
                let value = |key: &str| number(reading[key].as_f64().unwrap_or(f64::NAN));
                let (median, min, max) = (value("median"), value("min"), value("max"));
                let _ = writeln!(page, "| {} | {} | {median} | {min} .. {max} |", text("what"), text("unit"));
            }
        }
        page
    }

    fn row(&self, goal: &Goal) -> String {
        let value = self.results.get(goal.section).map_or(&Value::Null, |section| &section["goals"][goal.key]);
        let Some(median) = value["median"].as_f64() else {
            let reason = value["missing"].as_str().unwrap_or("not run");
            return format!("– | – | not measured: {reason}");
        };
        let spread = |key: &str| number(value[key].as_f64().unwrap_or(f64::NAN));
        format!("{} {} | {} .. {} | {}", number(median), goal.unit, spread("min"), spread("max"), goal.verdict(median))
    }
}

/// When, where and how, in two lines.
fn circumstances(value: &Value) -> String {
    let text = |key: &str| match &value[key] {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => "?".to_owned(),
    };
    let quick =
        if value["quick"] == true { " **Quick run: small sizes, few rounds; not for conclusions.**" } else { "" };
    format!(
        "`{}`, {}, commit {}, {} and {}; {} rounds.{quick}\n\
         {} cores of {}, {} GiB, {}; load average {} before and {} after.",
        text("command"),
        text("date"),
        text("commit"),
        text("entrepot"),
        text("nginx"),
        text("rounds"),
        text("cores"),
        text("cpu"),
        text("memory_gib"),
        text("kernel"),
        text("load_average_before"),
        text("load_average_after"),
    )
}

fn spread(median: f64, min: f64, max: f64) -> String {
    format!("{} ({} .. {})", number(median), number(min), number(max))
}
