//! Finds the rows of a key that was typed. A key and a row may differ in spelling: a row has the number of an account
//! and never its registry, it has names of hosts and headers in lower case, and it may quote other parts.

use std::fmt;

use toml_edit::Key;

use super::edit::KeyPath;
use super::effective::{Effective, Entry};
use super::provenance::Provenance;
use super::schema::Kind;

/// An account in the rows.
struct AccountRow<'a> {
    number: String,
    registry: &'a str,
    /// Empty for the account of a whole host.
    repository: &'a str,
    origin: &'a Provenance,
}

impl KeyPath {
    /// The rows of the key: those of its value, or those of all keys below it. Empty if it is not set.
    ///
    /// If several accounts are for one registry as a whole, these are the rows of the account that is used.
    pub fn rows<'a>(&self, effective: &'a Effective) -> Vec<&'a Entry> {
        let mut wanted: Vec<String> = self.parts().map(str::to_owned).collect();
        if let [list, account, ..] = &mut wanted[..]
            && list == "credentials"
        {
            let accounts = accounts(effective);
            let found = match account.parse::<usize>() {
                Ok(number) => Some(number.to_string()),
                Err(_) => used(&accounts, account, "").map(|account| account.number.clone()),
            };
            let Some(number) = found else { return Vec::new() };
            *account = number;
        }
        let is_below = |row: &&Entry| {
            let parts = parts(&row.key);
            parts.len() >= wanted.len() && parts.iter().zip(&wanted).all(|(part, wanted)| same_name(part, wanted))
        };
        effective.entries.iter().filter(is_below).collect()
    }

    /// The variable of the environment, or the flag, that replaces what the file says about this key. None if the
    /// file's value is in force, or would be if it had one.
    pub fn overridden_by<'a>(&self, effective: &'a Effective) -> Option<&'a Provenance> {
        let parts: Vec<&str> = self.parts().collect();
        if let ["credentials", account, ..] = parts[..] {
            let accounts = accounts(effective);
            let (registry, repository) = match account.parse::<usize>() {
                Ok(number) => {
                    let number = number.to_string();
                    let own = accounts.iter().find(|account| account.number == number)?;
                    (own.registry, own.repository)
                }
                Err(_) => (account, ""),
            };
            return used(&accounts, registry, repository).map(|used| used.origin).filter(|origin| over(origin));
        }
        let rows = self.rows(effective);
        let first = rows.first().map(|row| &row.origin)?;
        // A list that several sources add to has a row for each of them, and the file's row counts too.
        rows.iter().all(|row| over(&row.origin)).then_some(first)
    }

    /// Whether the key has a value of its own. If not, it is a section or an entry of a list of tables.
    pub fn is_value(&self) -> bool {
        !matches!(self.kind, Kind::Table(_) | Kind::Named(_) | Kind::List(Kind::Table(_)))
    }
}

impl fmt::Display for KeyPath {
    /// As it was typed.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.shown())
    }
}

/// The account that is used for a registry and the given repositories. Those of the environment come before those of
/// the file, as in `registries::accounts`.
fn used<'a, 'b>(accounts: &'b [AccountRow<'a>], registry: &str, repository: &str) -> Option<&'b AccountRow<'a>> {
    let same = |account: &&AccountRow<'_>| same_name(account.registry, registry) && account.repository == repository;
    let mut of_file = accounts.iter().filter(same);
    accounts.iter().filter(same).find(|account| over(account.origin)).or_else(|| of_file.next())
}

fn accounts(effective: &Effective) -> Vec<AccountRow<'_>> {
    let text = |key: &str| effective.value(key).and_then(toml::Value::as_str);
    let rows = effective.entries.iter().filter_map(|row| {
        let number = row.key.strip_prefix("credentials.")?.strip_suffix(".registry")?.to_owned();
        let repository = text(&format!("credentials.{number}.repository")).unwrap_or_default();
        Some(AccountRow { number, registry: row.value.as_str()?, repository, origin: &row.origin })
    });
    rows.collect()
}

/// Whether a layer above the file gave the value.
fn over(origin: &Provenance) -> bool {
    matches!(origin, Provenance::Environment(_) | Provenance::Flag(_))
}

/// The names that the schema does not know are those of hosts and headers. Both compare without case.
fn same_name(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other)
}

fn parts(key: &str) -> Vec<String> {
    Key::parse(key)
        .map_or_else(|_| vec![key.to_owned()], |parts| parts.iter().map(|part| part.get().to_owned()).collect())
}
