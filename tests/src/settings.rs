//! The product's configuration for a test: lines for sections of `entrepot.toml`, and environment variables, in
//! addition to those of every test.

use std::collections::BTreeMap;

use crate::entrepot::{ADMIN, socket};
use crate::world::World;

/// A configuration: lines for sections of `entrepot.toml`, and environment variables.
#[derive(Clone, Default)]
pub struct Settings {
    sections: BTreeMap<String, String>,
    environment: Vec<(String, String)>,
}

impl Settings {
    /// The settings of every test: data are in the world's directory, the internet's authority is trusted, and the
    /// tests' registries are intercepted. The registry is open to everybody, which is not the default.
    pub fn new() -> Self {
        Self::default()
            .set("proxy", "listen = [\"0.0.0.0:3128\"]")
            .set("intercept", r#"registries = ["reg.private.test:5000", "plain.test:5001", "fake.test"]"#)
            .set(r#"registries."plain.test:5001""#, "scheme = \"http\"")
            .set("registry", "anonymous = \"delete\"")
    }

    /// Adds a line to a section. It replaces the value of a key that the section has already. `[[credentials]]` and the
    /// like are sections of that name, brackets included.
    pub fn set(mut self, section: &str, line: &str) -> Self {
        let lines = self.sections.entry(section.to_owned()).or_default();
        let key = format!("{} =", line.split('=').next().unwrap_or_default().trim());
        *lines = lines.lines().filter(|known| !known.starts_with(&key)).map(|known| format!("{known}\n")).collect();
        lines.push_str(line);
        lines.push('\n');
        self
    }

    /// Takes a section's lines away, so that its keys have the product's defaults.
    pub fn without(mut self, section: &str) -> Self {
        self.sections.remove(section);
        self
    }

    /// Adds an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The file's text.
    pub fn toml(&self, world: &World) -> String {
        let data = world.path("data");
        let mut text = String::new();
        let mut sections = self.sections.clone();
        text.push_str(&sections.remove("").unwrap_or_else(|| format!("data_dir = {data:?}\n")));
        let socket = socket(world);
        sections.entry("admin".to_owned()).or_default().push_str(&format!("listen = {ADMIN:?}\nsocket = {socket:?}\n"));
        for (name, lines) in sections {
            let header = if name.starts_with('[') { name } else { format!("[{name}]") };
            text.push_str(&format!("{header}\n{lines}"));
        }
        text
    }

    /// The environment variables.
    pub(crate) fn environment(&self) -> &[(String, String)] {
        &self.environment
    }
}
