//! A transparent door's report to the redirect agents about the rights of its process. It is a field of the answer to an
//! agent's health question ([`crate::sniff::HEALTH_HOST`]), beside [`crate::unplaced`].

/// The name of the field.
const FIELD: &str = "Entrepot-Door";

/// The rights of a door's process that a redirection depends on. Both need CAP_NET_ADMIN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DoorRights {
    /// Whether the door accepts connections to addresses of other machines (IP_TRANSPARENT). A gateway needs it.
    pub is_transparent: bool,
    /// Whether the process can mark its own connections (SO_MARK), by which an agent on the same machine knows them.
    pub can_mark: bool,
}

impl DoorRights {
    /// A door that says nothing is an older one, which is taken for one with all rights.
    pub const ALL: Self = Self { is_transparent: true, can_mark: true };

    /// The rights that both have.
    pub fn and(self, other: Self) -> Self {
        Self { is_transparent: self.is_transparent && other.is_transparent, can_mark: self.can_mark && other.can_mark }
    }
}

/// The field as a line of a response head.
///
/// ```
/// use entrepot_core::door_rights::{DoorRights, line, read};
///
/// let rights = DoorRights { is_transparent: true, can_mark: false };
/// assert_eq!(line(rights), "Entrepot-Door: transparent=yes, mark=no\r\n");
/// assert_eq!(read(&line(rights)), rights);
/// ```
pub fn line(rights: DoorRights) -> String {
    let word = |has: bool| if has { "yes" } else { "no" };
    format!("{FIELD}: transparent={}, mark={}\r\n", word(rights.is_transparent), word(rights.can_mark))
}

/// The rights in a response head. Rights that are not denied there count as given.
pub fn read(head: &str) -> DoorRights {
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    let told = fields.filter(|(name, _)| name.eq_ignore_ascii_case(FIELD)).flat_map(|(_, value)| value.split(','));
    let denied: Vec<&str> = told.map(str::trim).collect();
    DoorRights { is_transparent: !denied.contains(&"transparent=no"), can_mark: !denied.contains(&"mark=no") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_denied_right_is_missing() {
        for (head, transparent, mark) in [
            ("HTTP/1.1 204 No Content\r\n\r\n", true, true),
            ("Entrepot-Door: transparent=no\r\n", false, true),
            ("entrepot-door: mark=no, future=no\r\n", true, false),
            ("Entrepot-Door: transparent=no, mark=no", false, false),
            ("Server: mark=no", true, true),
        ] {
            assert_eq!(read(head), DoorRights { is_transparent: transparent, can_mark: mark }, "{head}");
        }
        assert_eq!(DoorRights::ALL.and(read("Entrepot-Door: mark=no")), read("Entrepot-Door: mark=no"));
    }
}
