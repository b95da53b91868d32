//! Adds to a configuration file that has no drop-ins, and keeps every byte of the present text. The result is parsed
//! again: if it does not mean the present text plus the addition, it is not used.

/// `text` with more TOML at its end; None if `text` is not TOML or the addition would change its meaning.
pub(super) fn toml(text: &str, addition: &str) -> Option<String> {
    let before: toml::Table = toml::from_str(text).ok()?;
    let line_end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    let whole = format!("{text}{line_end}{addition}");
    let after: toml::Table = toml::from_str(&whole).ok()?;
    let contains = contains(&toml::Value::Table(after), &toml::Value::Table(before));
    contains.then_some(whole)
}

fn contains(whole: &toml::Value, part: &toml::Value) -> bool {
    match (whole, part) {
        (toml::Value::Table(whole), toml::Value::Table(part)) => {
            part.iter().all(|(key, value)| whole.get(key).is_some_and(|other| contains(other, value)))
        }
        _ => whole == part,
    }
}

/// `text` with one more member at the start of its object; None if `text` is not a JSON object or has such a member.
pub(super) fn json(text: &str, name: &str, value: &serde_json::Value) -> Option<String> {
    let before: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).ok()?;
    if before.contains_key(name) {
        return None;
    }
    let (head, rest) = text.split_once('{')?;
    let separator = if before.is_empty() { "\n" } else { "," };
    let rest = if before.is_empty() { rest.trim_start() } else { rest };
    let whole = format!("{head}{{\n  {}: {value}{separator}{rest}", serde_json::Value::from(name));
    let mut after: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&whole).ok()?;
    let added = after.remove(name)?;
    (added == *value && after == before).then_some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toml_keeps_every_byte() {
        let addition = "[a.b]\nc = 1\n";
        for text in ["", "x = 1", "# note\n[a]\ny = 2 # why\n", "[a.d]\n\n\n"] {
            let whole = toml(text, addition).expect(text);
            assert!(whole.starts_with(text) && whole.ends_with(addition), "{whole}");
        }
        for refused in ["[a.b]\nc = 2\n", "a = 1\n", "a = { b = {} }\n", "no toml"] {
            assert_eq!(toml(refused, addition), None, "{refused}");
        }
    }

    #[test]
    fn json_keeps_every_byte() {
        let value = serde_json::json!(["u"]);
        for (text, whole) in [
            ("{}", "{\n  \"m\": [\"u\"]\n}"),
            ("{\n}\n", "{\n  \"m\": [\"u\"]\n}\n"),
            ("{\n    \"a\": {\"b\": 1}\n}\n", "{\n  \"m\": [\"u\"],\n    \"a\": {\"b\": 1}\n}\n"),
        ] {
            assert_eq!(json(text, "m", &value).as_deref(), Some(whole));
        }
        for refused in ["", "[]", "{\"m\": []}", "{,}"] {
            assert_eq!(json(refused, "m", &value), None, "{refused}");
        }
    }
}
