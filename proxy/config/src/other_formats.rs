//! Files in another format than TOML that people bring from other programs: YAML, JSON, lists of variables. TOML's own
//! error says nothing about that.

use std::path::Path;

use super::environment;

/// The hint about a file that is not TOML. None if the file looks like TOML with a mistake. It quotes nothing of the
/// text.
pub(super) fn hint(path: &Path, text: &str) -> Option<String> {
    const TOML: &str = "the configuration is TOML: a [section] in brackets, then lines as in key = \"value\"";
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_ascii_lowercase();
    let first = text.lines().map(str::trim_end).find(|line| !line.is_empty() && !line.trim_start().starts_with('#'))?;
    let has_section = text.lines().any(|line| line.trim_start().starts_with('[') && line.contains(']'));
    if first.trim_start().starts_with('{') {
        return Some(format!("this looks like JSON; {TOML}"));
    }
    if is_variable(first) {
        return Some(
            "this looks like a list of environment variables; give it to the process (docker run --env-file, or \
             EnvironmentFile in a unit), not as its configuration"
                .to_owned(),
        );
    }
    let is_yaml = first == "---" || is_yaml(first) || (matches!(&*ending, "yml" | "yaml") && !has_section);
    is_yaml.then(|| format!("this looks like YAML; {TOML}"))
}

/// `key:`, `key: value` or `- item`. A key of TOML is followed by an equals sign.
fn is_yaml(line: &str) -> bool {
    let line = line.trim_start();
    let Some((key, value)) = line.split_once(':') else { return line.starts_with("- ") };
    let plain = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.\"'".contains(&byte));
    line.starts_with("- ") || (plain && (value.is_empty() || value.starts_with(' ')))
}

/// `NAME=value`, with the name of one of our variables.
fn is_variable(line: &str) -> bool {
    let line = line.strip_prefix("export ").unwrap_or(line);
    line.split_once('=').is_some_and(|(name, _)| environment::names().any(|known| known == name.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_formats_are_recognised() {
        for (name, text, told) in [
            ("entrepot.yaml", "cache:\n  max_size: 32g\n", "YAML"),
            ("entrepot.toml", "# mine\n\ncache:\n  max_size: 32g\n", "YAML"),
            ("entrepot.toml", "---\nproxy: {}\n", "YAML"),
            ("config.yml", "version: 0.1\nlog:\n  fields:\n", "YAML"),
            ("entrepot.yml", "cache max_size 32g\n", "YAML"),
            ("entrepot.toml", "- a\n- b\n", "YAML"),
            ("entrepot.toml", "  registries: [a.io]\n", "YAML"),
            ("entrepot.json", "{\"cache\": {\"max_size\": \"32g\"}}\n", "JSON"),
            ("entrepot.toml", "\n{\n  \"cache\": 1\n}\n", "JSON"),
            ("entrepot.env", "CACHE_MAX_SIZE=32g\nREGISTRIES=a.io b.io\n", "variables"),
            ("entrepot.toml", "export REGISTRIES=\"a.io b.io\"\n", "variables"),
            // TOML with a mistake.
            ("entrepot.toml", "[cache\nmax_size = \"32g\"\n", ""),
            ("entrepot.toml", "max_size = 32g\n", ""),
            ("entrepot.toml", "listen = http://a:1\n", ""),
            ("entrepot.yaml", "[cache]\nmax_size = 32g\n", ""),
            ("entrepot.toml", "", ""),
        ] {
            let hint = hint(Path::new(name), text).unwrap_or_default();
            assert_eq!((hint.contains(told), hint.is_empty()), (true, told.is_empty()), "{name} {text:?}: {hint}");
        }
    }
}
